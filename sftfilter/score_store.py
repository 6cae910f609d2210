"""Scores kept by scorer fingerprint and rollout, over every run: what is scored is never scored again.

Each batch becomes one Parquet file below `<root>/scored/<fingerprint>/`, named by the rows in it, written aside and
renamed: a killed job leaves whole files only, and a batch that is scored twice replaces itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sftfilter.artifacts import disk_errors
from sftfilter.config import stable_hash

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_COLUMNS = ("rollout_id", "score", "error", "detail")


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


def read_parts(folder: Path) -> pl.LazyFrame:
    """Every row scored so far, one for each rollout; one with a score goes before one with an error."""
    import polars as pl

    parts = sorted(folder.glob("*.parquet"))
    if not parts:
        schema = {"rollout_id": pl.String, "score": pl.Float64, "error": pl.String, "detail": pl.String}
        return pl.LazyFrame(schema=schema)
    frame = pl.scan_parquet(parts, glob=False).select(_COLUMNS)
    return frame.sort("score", nulls_last=True).unique("rollout_id", keep="first")


def scored_ids(folder: Path, wanted: pa.ChunkedArray) -> pa.ChunkedArray:
    """Those of the wanted rollouts that have a score. Rows with an error are not among them: they are tried again."""
    import polars as pl

    ids = pl.DataFrame({"rollout_id": wanted}).lazy()
    scored = read_parts(folder).filter(pl.col("score").is_not_null())
    return ids.join(scored.select("rollout_id"), on="rollout_id", how="semi").collect().to_arrow()["rollout_id"]
