"""What a task reads: whole files, or ranges of a big one; each with the layout that its columns tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from sftfilter.config import did_you_mean, file_hash, stable_hash
from sftfilter.errors import DataError
from sftfilter.reading.formats import Broken, Raw, Span, csv_rows, json_document, json_lines, line_spans
from sftfilter.reading.places import EXTENSIONS, File, extension, find, fingerprint
from sftfilter.reading.shapes import Layout, check_columns, layout, shape_of
from sftfilter.reading.source import FileSource, Format
from sftfilter.reading.tables import HUB, dataset_rows, load_split, parquet_file, parquet_ranges, parquet_rows

UNIT_BYTES = 64 * 2**20
_LOOK_AHEAD = 100
_ALL_BROKEN = 1000
_TEXT = {"jsonl": json_lines, "json": json_document, "csv": csv_rows}


@dataclass(frozen=True)
class Input:
    """The files of a source, found.

    Attributes:
        key: changes with the names and contents of the files.
    """

    files: Sequence[File]
    key: str

    @property
    def size(self) -> int:
        """Bytes on disk or in the bucket."""
        return sum(f.size for f in self.files)


@dataclass(frozen=True)
class Unit:
    """A file, or a part of it: the rows or row groups [start, stop), or the lines of a span."""

    file: File
    format: Format
    start: int = 0
    stop: int | None = None
    span: Span | None = None


def found(source: FileSource) -> Input:
    """Look up what a source names.

    Raises:
        DataError: there is nothing, or it cannot be reached.
    """
    datasets = [path for path in source.paths if is_dataset(source, path)]
    files = find([path for path in source.paths if path not in datasets])
    files += [_dataset(path, source) for path in datasets]
    return Input(files, fingerprint(files))


def plan(source: FileSource, files: Sequence[File], unit_bytes: int = UNIT_BYTES) -> list[list[Unit]]:
    """Share the input into chunks of about `unit_bytes`, in its order: big files in ranges, small ones together."""
    chunks: list[list[Unit]] = []
    held = 0
    for file in files:
        for unit, size in _parts(source, file, unit_bytes):
            if not chunks or held + size > unit_bytes:
                chunks.append([])
                held = 0
            chunks[-1].append(unit)
            held += size
    return chunks


def open_unit(source: FileSource, unit: Unit, columns: Sequence[str], *, answers: bool) -> tuple[Layout, Iterator[Raw]]:
    """The layout of a unit's file, and its records.

    Args:
        columns: columns that are wanted beside the conversation; a file that surely lacks one is refused.
        answers: completions are wanted too.
    """
    name = unit.file.shown
    if unit.format in _TEXT:
        return _open_text(source, unit, columns, answers)
    if unit.format == "parquet":
        have = list(parquet_file(unit.file).schema_arrow.names)
        check_columns(source, have, name)
        told = layout(source, have, name, answers=answers)
        _check_columns(columns, have, name)
        wanted = [c for c in have if c in {*told.column.values(), *columns}]
        return told, parquet_rows(unit.file, unit.start, unit.stop or 0, wanted)
    loaded = load_split(unit.file.uri, source.split, source.revision)
    check_columns(source, loaded.column_names, name)
    told = layout(source, loaded.column_names, name, answers=answers)
    _check_columns(columns, loaded.column_names, name)
    return told, dataset_rows(loaded, unit.start, unit.stop or 0)


def _open_text(source: FileSource, unit: Unit, columns: Sequence[str], answers: bool) -> tuple[Layout, Iterator[Raw]]:
    """Look at the file's first records, since a text file has no schema, and hand the unit's on."""
    name = unit.file.shown
    raws = _TEXT[unit.format](unit.file)
    head: list[Raw] = []
    records = 0
    for raw in raws:
        head.append(raw)
        records += isinstance(raw.record, dict)
        if len(head) >= (_LOOK_AHEAD if records else _ALL_BROKEN):
            break
    if not records and len(head) == _ALL_BROKEN:
        first = head[0].record
        reason = first.reason if isinstance(first, Broken) else f"found {type(first).__name__}"
        raise DataError(f"{name}: none of its first {_ALL_BROKEN} rows is a record ({reason}); which `format` is it?")
    wanted = chain(head, raws) if unit.span is None else json_lines(unit.file, unit.span)
    if not records:
        return Layout("prompt", {"prompt": "prompt"}), wanted  # no row of it can be used anyway
    every = list(dict.fromkeys(key for raw in head if isinstance(raw.record, dict) for key in raw.record))
    check_columns(source, every, name, "" if unit.format == "csv" else f" in the first {len(head)} rows")
    have = _usual_columns(source, head)
    told = layout(source, have, name, answers=answers)
    if unit.format == "csv":
        _check_columns(columns, have, name)
    return told, wanted


def _usual_columns(source: FileSource, head: Sequence[Raw]) -> list[str]:
    """The columns of those records that have the most usual shape: a stray one of another decides nothing."""
    by_shape: dict[str | None, list[dict[str, Any]]] = {}
    for raw in head:
        if isinstance(raw.record, dict):
            by_shape.setdefault(shape_of(source, raw.record), []).append(raw.record)
    known = {shape: records for shape, records in by_shape.items() if shape is not None} or by_shape
    return list(dict.fromkeys(key for record in max(known.values(), key=len) for key in record))


def _check_columns(wanted: Sequence[str], have: Sequence[str], name: str) -> None:
    for column in wanted:
        if column not in have:
            raise DataError(f"{name}: no column '{column}'{did_you_mean(column, have)}; it has {', '.join(have)}")


def is_dataset(source: FileSource, path: str) -> bool:
    """Whether a path is a `datasets` folder or hub id."""
    if source.format is not None:
        return source.format == "dataset"
    saved = any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))
    return path.startswith(HUB) or ("://" not in path and saved)


def _dataset(path: str, source: FileSource) -> File:
    loaded = load_split(path, source.split, source.revision)
    stamp = str(loaded._fingerprint)
    if Path(path).is_dir():  # the fingerprint stands in a file of its own, and need not tell of the data beside it
        folder = Path(path, source.split) if Path(path, "dataset_dict.json").is_file() else Path(path)
        data = [[file.name, file.stat().st_size, file_hash(file)] for file in sorted(folder.glob("*.arrow"))]
        stamp = stable_hash([stamp, data])
    return File(path, Path(path).name, int(loaded.size_in_bytes or len(loaded) * 1000), stamp)


def format_of(source: FileSource, file: File) -> Format:
    """How a file is read: as the source says, or as its extension tells.

    Raises:
        DataError: neither says.
    """
    told: Any = source.format or EXTENSIONS.get(extension(file.name))
    if told is None:
        raise DataError(
            f"{file.shown}: the extension tells no format; set `format` to jsonl, json, csv, parquet or dataset "
            f"(known extensions: {', '.join(EXTENSIONS)}, each plain, .gz or .zst)"
        )
    return told


def _parts(source: FileSource, file: File, unit_bytes: int) -> Iterator[tuple[Unit, int]]:
    """Units of a file with their sizes in bytes."""
    if is_dataset(source, file.uri):
        rows = len(load_split(file.uri, source.split, source.revision))
        step = max(1, rows * unit_bytes // max(1, file.size))
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            yield Unit(file, "dataset", start, stop), file.size * (stop - start) // rows
        return
    told = format_of(source, file)
    if told == "parquet":
        ranges = parquet_ranges(parquet_file(file), unit_bytes)
        for start, stop in ranges:
            yield Unit(file, told, start, stop), file.size // len(ranges)
    elif told == "jsonl" and file.size > unit_bytes and (spans := line_spans(file, unit_bytes)):
        for span in spans:
            yield Unit(file, told, span=span), span.stop - span.start
    else:
        yield Unit(file, told), file.size
