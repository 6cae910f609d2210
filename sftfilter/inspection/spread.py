"""How a scorer's scores are spread, by teacher, source and kind, and why rows have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sftfilter.tidy_scores import ERROR

if TYPE_CHECKING:
    import polars as pl

BINS = 30
_TAIL = 0.002
_GROUPS = 6
OTHER = "others"
OF = "source of "
"""Begins the name of a teacher's own sources."""
_REASONS = 5


def groupings(rows: pl.LazyFrame) -> list[str]:
    """Columns that tell rows apart beyond their teacher: source where a teacher has several, kind where there are any."""
    import polars as pl

    counts = rows.select(
        teachers=pl.col("teacher").n_unique(),
        sources=pl.struct("teacher", "source").n_unique(),
        kinds=pl.col("kind").drop_nulls().n_unique(),
    ).collect()
    teachers, sources, kinds = counts.row(0)
    return ["teacher", *(["source"] if sources > teachers else []), *(["kind"] if kinds > 1 else [])]


def histogram(rows: pl.LazyFrame, scorer: str, by: Sequence[str], first: Sequence[str] = ()) -> dict[str, Any] | None:
    """Counts in common bins, by group; None where no row has a score.

    Few distinct scores get a bin each. Otherwise the bins are equally wide; the outermost 0.2 % at either end are
    counted in the first and last bin, so that one outlier does not squeeze everything else into one bar.

    Args:
        by: columns to count by.
        first: groups that are shown whatever their size, and in this order; the others follow by size.

    Returns:
        bins: [{low, high}], beyond: rows outside of the bins, by: {column: {group: [rows per bin]}}; where there are
        several teachers, also `source of TEACHER` for each that has several sources.
    """
    import polars as pl

    scored = rows.select(*by, pl.col(scorer).alias("score")).drop_nulls("score")
    found = scored.select(
        least=pl.col("score").min(),
        most=pl.col("score").max(),
        low=pl.col("score").quantile(_TAIL, "lower"),
        high=pl.col("score").quantile(1 - _TAIL, "higher"),
        values=pl.col("score").n_unique(),
    ).collect()
    least, most, low, high, values = found.row(0)
    if least is None:
        return None
    if values <= BINS:
        bins = scored.select(pl.col("score").unique().sort()).collect()["score"].to_list()
        place = pl.col("score").replace_strict(bins, list(range(len(bins))), return_dtype=pl.UInt32)
        edges = [{"low": value, "high": value} for value in bins]
        low, high = least, most
    else:
        if low == high:
            low, high = least, most
        width = (high - low) / BINS
        place = ((pl.col("score") - low) / width).floor().clip(0, BINS - 1).cast(pl.UInt32)
        edges = [{"low": low + width * n, "high": low + width * (n + 1)} for n in range(BINS)]
    placed = scored.with_columns(place.alias("bin"))
    beyond = scored.filter((pl.col("score") < low) | (pl.col("score") > high)).select(pl.len()).collect().item()
    counted: dict[str, dict[str, list[int]]] = {}
    for column in by:
        counted[column] = _counted(placed, column, len(edges), first)
        if column == "source" and len(teachers := list(counted.get("teacher", {}))) > 1:
            for teacher in teachers:
                own = _counted(placed.filter(pl.col("teacher") == teacher), column, len(edges), ())
                counted |= {OF + teacher: own} if len(own) > 1 else {}
    return {"bins": edges, "beyond": beyond, "by": counted}


def _counted(placed: pl.LazyFrame, column: str, bins: int, first: Sequence[str]) -> dict[str, list[int]]:
    import polars as pl

    group = pl.col(column).fill_null("none").cast(pl.String)
    counts = placed.group_by(group.alias("group"), "bin").agg(pl.len()).collect()
    sizes = counts.group_by("group").agg(pl.col("len").sum()).sort("len", "group", descending=[True, False])
    by_size = sizes["group"].to_list()
    ahead = [name for name in first if name in by_size]
    named = [*ahead, *(name for name in by_size if name not in ahead)]
    most = max(_GROUPS, len(ahead))
    shown = named if len(named) <= most + 1 else named[:most]
    found = {name: [0] * bins for name in ([*shown, OTHER] if len(shown) < len(named) else shown)}
    for name, place, rows in counts.iter_rows():
        found[name if name in found else OTHER][place] += rows
    return found


def reasons(rows: pl.LazyFrame, scorer: str) -> list[dict[str, Any]]:
    """The commonest reasons why rows of a teacher have no score: teacher, reason, rows."""
    import polars as pl

    reason = pl.coalesce(pl.col(scorer + ERROR), pl.lit("never scored")).str.head(200)
    found = (
        rows.filter(pl.col(scorer).is_null()).group_by("teacher", reason.alias("reason")).agg(pl.len().alias("rows"))
    )
    return found.sort("rows", "teacher", "reason", descending=[True, False, False]).head(_REASONS).collect().to_dicts()
