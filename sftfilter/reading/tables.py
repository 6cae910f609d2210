"""Records from Parquet files and `datasets`, in ranges that tasks can share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.errors import DataError
from sftfilter.reading.formats import Broken, Raw
from sftfilter.reading.places import File, explained, filesystem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

HUB = "hf://datasets/"
_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 2048


def parquet_file(file: File) -> pq.ParquetFile:
    """The file, opened; its data are read piece by piece.

    Raises:
        DataError: it is cut short or no Parquet at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with explained(file.uri):
        system, path = filesystem(file.uri)
        try:
            return pq.ParquetFile(system.open_input_file(path), pre_buffer=False, buffer_size=2**20)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{file.shown}: no whole Parquet file (cut short, or another format): {error}\nCopy or download it again."
            ) from error


def parquet_ranges(opened: pq.ParquetFile, most: int) -> list[tuple[int, int]]:
    """Row groups [start, stop) of about `most` uncompressed bytes together."""
    metadata = opened.metadata
    ranges, start, held = [], 0, 0
    for group in range(metadata.num_row_groups):
        held += metadata.row_group(group).total_byte_size
        if held >= most:
            ranges.append((start, group + 1))
            start, held = group + 1, 0
    if start < metadata.num_row_groups or not ranges:
        ranges.append((start, metadata.num_row_groups))
    return ranges


def parquet_rows(file: File, start: int, stop: int, columns: Sequence[str]) -> Iterator[Raw]:
    """Records of the row groups [start, stop), with the given columns only."""
    import pyarrow as pa

    opened = parquet_file(file)
    metadata = opened.metadata
    number = sum(metadata.row_group(g).num_rows for g in range(start))
    groups = list(range(start, stop))
    rows = sum(metadata.row_group(g).num_rows for g in groups)
    held = sum(metadata.row_group(g).total_byte_size for g in groups)
    size = max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(1, held)))
    wanted = None if any("." in c for c in columns) else list(columns)  # a dot would mean a field within a struct
    try:
        for batch in opened.iter_batches(size, row_groups=groups, columns=wanted, use_threads=False):
            yield from _records(batch, number)
            number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.shown}: damaged after row {number}: {error}\nCopy or download it again.") from error


def load_split(path: str, split: str, revision: str | None) -> Any:
    """A split of a `datasets` folder on disk or of a hub dataset.

    Raises:
        DataError: there is none.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    name = path.removeprefix(HUB)
    if name == path and Path(path).is_dir():
        try:
            loaded = load_from_disk(path)
        except Exception as error:  # a damaged folder raises whatever the parser of the damaged file does
            raise DataError(f"{path}: no `datasets` folder, or a damaged one: {error}") from error
        if not isinstance(loaded, DatasetDict):
            return loaded
        if split not in loaded:
            raise DataError(f"{path}: no split '{split}'; there are: {', '.join(map(str, loaded))}")
        return loaded[split]
    try:
        return load_dataset(name, split=split, revision=revision)
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise DataError(f"'{name}' is no folder, and the hub gave no such dataset: {error}") from error


def dataset_rows(loaded: Any, start: int, stop: int) -> Iterator[Raw]:
    """Records of the rows [start, stop) of a loaded split."""
    tables = loaded.with_format("arrow")
    for at in range(start, stop, _BATCH_ROWS):
        table = tables[at : min(stop, at + _BATCH_ROWS)]
        for batch in table.to_batches():
            yield from _records(batch, at)
            at += batch.num_rows  # noqa: PLW2901


def _records(batch: pa.RecordBatch, before: int) -> Iterator[Raw]:
    """Rows of a batch. One whose text is not UTF-8 costs only itself."""
    try:
        for number, record in enumerate(batch.to_pylist(), before + 1):
            yield Raw(number, record)
    except UnicodeDecodeError:
        for at in range(batch.num_rows):
            try:
                yield Raw(before + at + 1, batch.slice(at, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                yield Raw(before + at + 1, Broken(f"not UTF-8: {error.reason} at byte {error.start}"))
