"""One task of an import: read a chunk, write its usable rows, its quarantine and its ids as files of their own.

A file is named by its chunk, written aside and renamed, so that a task that runs twice writes the same files again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.disk import disk_errors
from sftfilter.reading.rows import Reader, Row, Tally
from sftfilter.schema import QUARANTINE, ROLLOUTS, rollout_id

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sftfilter.reading.source import FileSource
    from sftfilter.reading.units import Unit

ROLLOUT_FOLDER = "rollouts.parquet"
QUARANTINE_FOLDER = "quarantine.parquet"
ID_FOLDER = ".ids"
_FLUSH_ROWS = 20_000
_FLUSH_CHARACTERS = 16 * 2**20


@dataclass(frozen=True)
class Import:
    """What every task of an import is told."""

    source: FileSource
    teacher: str
    ratings: Sequence[str]
    folder: Path


@dataclass
class Chunk:
    """What became of a chunk: read = usable + quarantined + filtered + other_prompts."""

    usable: int = 0
    other_prompts: int = 0
    tally: Tally = field(default_factory=Tally)


def import_chunk(number: int, units: Sequence[Unit], task: Import, wanted: pa.Array | None) -> Chunk:
    """Read the units and write files number `number`.

    Args:
        wanted: ids of the prompts whose answers are used; None: of all.
    """
    reader = Reader(task.source, answers=True, ratings=task.ratings)
    chunk = Chunk(tally=reader.tally)
    with disk_errors(task.folder), ExitStack() as stack:
        good, bad, ids = (
            stack.enter_context(_written(task.folder / name / f"part-{number:05d}.parquet", schema))
            for name, schema in ((ROLLOUT_FOLDER, ROLLOUTS), (QUARANTINE_FOLDER, QUARANTINE), (ID_FOLDER, _id_schema()))
        )
        for rows, quarantined in _flushes(reader, units):
            table, keys = _tables(rows, task.teacher, number)
            if wanted is not None:
                table, keys = _only(wanted, table, keys)
            chunk.other_prompts += len(rows) - table.num_rows
            if table.num_rows:
                good.write_table(table)
                ids.write_table(_placed(keys, chunk.usable))
            if quarantined:
                bad.write_table(pa_table(quarantined, QUARANTINE))
            chunk.usable += table.num_rows
    return chunk


def pa_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table from records."""
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema)


def _flushes(reader: Reader, units: Sequence[Unit]) -> Iterator[tuple[list[Row], list[dict[str, Any]]]]:
    """Usable and quarantined rows, as many as may be held at a time."""
    rows: list[Row] = []
    bad: list[dict[str, Any]] = []
    held = 0
    for unit in units:
        for row in reader.rows(unit):
            if isinstance(row, Row):
                rows.append(row)
                held += row.size
            else:
                bad.append(row)
            if held > _FLUSH_CHARACTERS or len(rows) + len(bad) >= _FLUSH_ROWS:
                yield rows, bad
                rows, bad, held = [], [], 0
    yield rows, bad


def _tables(rows: Sequence[Row], teacher: str, part: int) -> tuple[pa.Table, pa.Table]:
    """Rows as rollouts, and what is needed to tell duplicates and conflicts."""
    import pyarrow as pa

    count = len(rows)
    ids = pa.array([rollout_id(r.prompt_id, teacher, r.completion or "", r.sample) for r in rows], pa.string())
    prompts = pa.array([r.prompt_id for r in rows], pa.string())
    given = pa.array([r.source_id for r in rows], pa.string())
    columns = {
        "rollout_id": ids,
        "prompt_id": prompts,
        "messages": pa.array([r.messages for r in rows], ROLLOUTS.field("messages").type),
        "completion": pa.array([r.completion for r in rows], pa.string()),
        "teacher": pa.array([teacher] * count, pa.string()),
        "source": pa.array([r.source for r in rows], pa.string()),
        "kind": pa.array([r.kind for r in rows], pa.string()),
        "source_id": given,
        "ratings": pa.array([r.ratings for r in rows], ROLLOUTS.field("ratings").type),
    }
    table = pa.table([columns.get(f.name, pa.nulls(count, f.type)) for f in ROLLOUTS], schema=ROLLOUTS)
    keys = {
        "part": pa.array([part] * count, pa.int32()),
        "at": pa.array(range(count), pa.int64()),
        "rollout_id": ids,
        "prompt_id": prompts,
        "source_id": given,
        "sample": pa.array([r.sample for r in rows], pa.int32()),
        "ratings": pa.array([r.ratings and repr(r.ratings) for r in rows], pa.string()),
        "file": pa.array([r.file for r in rows], pa.string()),
        "row": pa.array([r.number for r in rows], pa.int64()),
    }
    return table, pa.table(keys, schema=_id_schema())


def _id_schema() -> pa.Schema:
    import pyarrow as pa

    whole = {"part": pa.int32(), "at": pa.int64(), "sample": pa.int32(), "row": pa.int64()}
    names = ("part", "at", "rollout_id", "prompt_id", "source_id", "sample", "ratings", "file", "row")
    return pa.schema([(name, whole.get(name, pa.string())) for name in names])


def _only(wanted: pa.Array, table: pa.Table, keys: pa.Table) -> tuple[pa.Table, pa.Table]:
    import pyarrow.compute as pc

    mask = pc.is_in(table["prompt_id"], wanted)  # pyright: ignore[reportAttributeAccessIssue]
    return table.filter(mask), keys.filter(mask)


def _placed(keys: pa.Table, before: int) -> pa.Table:
    """Keys with the positions that their rows have in the part."""
    import pyarrow as pa

    return keys.set_column(1, "at", pa.array(range(before, before + keys.num_rows), pa.int64()))


@contextmanager
def _written(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer; the file is there, under its name, when the block has ended without an error."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            yield writer
        os.replace(aside, path)  # noqa: PTH105
    finally:
        aside.unlink(missing_ok=True)


def rewritten(path: Path, dropped: set[int]) -> None:
    """Take the rows at these positions out of a part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(path)
    at = 0
    with _written(path, opened.schema_arrow) as writer:
        for group in range(opened.num_row_groups):
            table = opened.read_row_group(group)
            keep = [at + i not in dropped for i in range(table.num_rows)]
            writer.write_table(table.filter(pa.array(keep)))
            at += table.num_rows
