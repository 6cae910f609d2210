"""Scores kept by scorer fingerprint and rollout, over every run: what is scored is never scored again.

Each batch becomes one Parquet file below `<root>/scored/<fingerprint>/`, named by the rows in it, written aside and
renamed: a killed job leaves whole files only, and a batch that is scored twice replaces itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sftfilter.config import stable_hash
from sftfilter.disk import disk_errors
from sftfilter.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

_COLUMNS = ("rollout_id", "score", "error", "detail")
_BLOCK, _BLOCKS = 500_000, 16
"""Rows of a block at least, and how many blocks there are at most."""


def part_folder(root: Path, fingerprint: str) -> Path:
    """Where the parts of a fingerprint lie; made if need be."""
    folder = root / "scored" / fingerprint
    with disk_errors(root):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_part(folder: Path, table: pa.Table) -> None:
    """Keep a batch: columns rollout_id, score, error, detail."""
    import pyarrow.parquet as pq

    name = stable_hash(table["rollout_id"].to_pylist())
    with disk_errors(folder):
        handle, aside = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        try:
            with open(handle, "wb") as sink:
                pq.write_table(table, sink, compression="zstd")
            Path(aside).chmod(0o644)
            Path(aside).rename(folder / f"{name}.parquet")
        finally:
            Path(aside).unlink(missing_ok=True)


def read_scores(folder: Path, ids: pl.LazyFrame) -> pl.DataFrame:
    """What is kept of some rollouts, in their order.

    Args:
        folder: the parts of one scorer.
        ids: columns `row` (a number for each rollout) and `rollout_id`.

    Returns:
        Columns row, rollout_id, score, error, detail: a row for each rollout that was dealt with. One that has both
        an error and, from a later try, a score, has its score.

    Raises:
        DataError: a part that cannot be read, by name.
    """
    import polars as pl

    with _readable(folder):
        found = _scan(folder).join(ids, on="rollout_id", how="inner").collect(engine="streaming").sort("row")
    if (found["row"] == found["row"].shift(1)).any():
        # Batches that overlap, of a killed run say; the order makes it one table whichever is read first.
        found = found.sort("row", "score", "error", "detail", nulls_last=True)
        found = found.unique("row", keep="first", maintain_order=True)
    return found.select("row", *(pl.col(c) for c in _COLUMNS))


def read_in_blocks(folder: Path, ids: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """`read_scores` for some rows after the others, so that memory does not grow with the table.

    Every block looks through all parts, so there are never more than a few.
    """
    size = max(_BLOCK, -(-rows // _BLOCKS))
    for first in range(0, rows, size):
        yield read_scores(folder, ids.slice(first, size))


def scored_rows(folder: Path, ids: pl.LazyFrame) -> np.ndarray:
    """Row numbers of the rollouts that have a score. Those with an error are not among them: they are tried again."""
    import polars as pl

    with _readable(folder):
        scored = _scan(folder).filter(pl.col("score").is_not_null()).select("rollout_id")
        return ids.join(scored, on="rollout_id", how="semi").select("row").collect(engine="streaming")["row"].to_numpy()


def _scan(folder: Path) -> pl.LazyFrame:
    import polars as pl

    schema = {"rollout_id": pl.String, "score": pl.Float64, "error": pl.String, "detail": pl.String}
    parts = sorted(folder.glob("*.parquet"))
    return pl.scan_parquet(parts, glob=False, schema=schema) if parts else pl.LazyFrame(schema=schema)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Name the part that cannot be read."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as problem:
        for part in sorted(folder.glob("*.parquet")):
            try:
                columns = pq.read_table(part).column_names
            except (pa.ArrowException, OSError) as error:
                raise _bad_part(part, str(error)) from problem
            if tuple(columns) != _COLUMNS:
                raise _bad_part(part, f"its columns are {', '.join(columns)}") from problem
        raise


def _bad_part(part: Path, reason: str) -> DataError:
    return DataError(
        f"{part}: not scores that this version wrote ({reason}); delete the file and run again: its rows, and no "
        "others, are then scored anew"
    )
