"""All scores of all teachers in one Parquet table: a row for each rollout, a column for each scorer.

The texts stay in the rollouts' own table (join on `rollout_id`); what is kept of them is their length.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import Artifact
from sftfilter.disk import disk_errors

if TYPE_CHECKING:
    import polars as pl

IDENTITY = ("rollout_id", "prompt_id", "teacher", "kind", "source", "source_id", "characters")
"""Columns before the scorers': who answered what, and how many characters the answer has."""
ERROR = "_error"
"""Ending of the column that says why a scorer gave a row no score."""
DECILES = tuple(n / 10 for n in range(11))


def clashing_names(scorers: Mapping[str, object]) -> list[str]:
    """Scorers whose name another column of the table has."""
    taken = {*IDENTITY, *(name + ERROR for name in scorers)}
    return [name for name in scorers if name in taken]


def write_tidy(path: Path, rollouts: Mapping[str, Artifact], scores: Mapping[tuple[str, str], Artifact]) -> None:
    """Write the table, aside first and then renamed, so that a reader never sees half of it.

    Args:
        rollouts: teacher -> its rollouts, in the order in which they are to stand.
        scores: (teacher, scorer) -> scores of that teacher's rollouts.
    """
    import polars as pl

    parts = [
        _teacher(rows, {name: scored for (whose, name), scored in scores.items() if whose == teacher}, teacher)
        for teacher, rows in rollouts.items()
    ]
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as aside:
            whole = Path(aside) / path.name
            pl.concat(parts, how="diagonal").sink_parquet(whole, compression="zstd", compression_level=1)
            whole.replace(path)


def _teacher(rollouts: Artifact, scores: Mapping[str, Artifact], teacher: str) -> pl.LazyFrame:
    import polars as pl

    rows = pl.scan_parquet(rollouts.path / "rollouts.parquet", glob=False).select(
        "rollout_id",
        "prompt_id",
        pl.lit(teacher).alias("teacher"),
        "kind",
        "source",
        "source_id",
        pl.col("completion").str.len_chars().alias("characters"),
    )
    for name, artifact in scores.items():
        scored = pl.scan_parquet(artifact.path / "scores.parquet", glob=False)
        columns = scored.select("rollout_id", pl.col("score").alias(name), pl.col("error").alias(name + ERROR))
        rows = rows.join(columns, on="rollout_id", how="left", maintain_order="left")
    return rows


def summarise(path: Path, scorers: Mapping[str, object]) -> dict[str, dict[str, dict[str, Any]]]:
    """teacher -> scorer -> rows, scored, errors, mean and deciles (minimum, nine deciles, maximum; None without scores)."""
    import polars as pl

    wanted = [
        expression
        for name in scorers
        for expression in (
            pl.col(name).count().alias(f"{name}/scored"),
            pl.col(name).null_count().alias(f"{name}/errors"),
            pl.col(name).mean().alias(f"{name}/mean"),
            *(pl.col(name).quantile(q, "linear").alias(f"{name}/{q}") for q in DECILES),
        )
    ]
    found = pl.scan_parquet(path, glob=False).group_by("teacher", maintain_order=True).agg(pl.len(), *wanted).collect()
    return {
        row["teacher"]: {
            name: {
                "rows": row["len"],
                **{field: row[f"{name}/{field}"] for field in ("scored", "errors", "mean")},
                "deciles": [row[f"{name}/{q}"] for q in DECILES],
            }
            for name in scorers
        }
        for row in found.to_dicts()
    }
