"""Everything that `inspect` finds out, as plain JSON that the terminal, the page and a program read alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sftfilter.inspection.agreement import agreement
from sftfilter.inspection.deciles import sampled_rows, strata
from sftfilter.inspection.spread import groupings, histogram, reasons
from sftfilter.tidy_scores import summarise

CONFOUND = "characters"
"""Stands beside the scorers in the agreement: a scorer that follows it scores length."""


def find(table: Path, rollouts: Mapping[str, Path], scorers: Sequence[str], rows_per_decile: int) -> dict[str, Any]:
    """Findings about the joined table of scores.

    Args:
        rollouts: teacher -> its rollouts table, for the texts of the rows shown.
        rows_per_decile: how many rows of each decile, scorer and teacher are shown.

    Returns:
        scores, histograms, agreement (by teacher), strata (scorer -> teacher -> parts), rows (the sample, by rollout
        id), reasons (scorer -> why rows have no score), prompts (how many, and how many every teacher answered).
    """
    import polars as pl

    rows = pl.scan_parquet(table, glob=False)
    by = groupings(rows)
    parts: dict[str, dict[str, Any]] = {name: {} for name in scorers}
    agreements: dict[str, Any] = {}
    for teacher in rollouts:
        own = rows.filter(pl.col("teacher") == teacher).select("rollout_id", CONFOUND, *scorers).collect()
        agreements[teacher] = agreement(own, [*scorers, CONFOUND])
        for name in scorers:
            parts[name][teacher] = strata(own, name, rows_per_decile)
    shown = (i for teachers in parts.values() for found in teachers.values() for part in found for i in part["sample"])
    return {
        "scores": summarise(table, dict.fromkeys(scorers)),
        "prompts": _prompts(rows, len(rollouts)),
        "histograms": {name: histogram(rows, name, by, list(rollouts)) for name in scorers},
        "agreement": agreements,
        "strata": parts,
        "rows": sampled_rows(table, rollouts, shown, scorers),
        "reasons": {name: reasons(rows, name) for name in scorers},
    }


def _prompts(rows: Any, teachers: int) -> dict[str, int]:
    import polars as pl

    answered = rows.group_by("prompt_id").agg(pl.col("teacher").n_unique().alias("teachers"))
    found = answered.select(all=pl.len(), paired=(pl.col("teachers") == teachers).sum()).collect().row(0, named=True)
    return {"all": found["all"], "answered_by_every_teacher": found["paired"]}
