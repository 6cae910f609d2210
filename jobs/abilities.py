"""What students can do, by arm: beside their traits in results.json, and as a gate of the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.evaluating import FOLLOWING, Evaluated
from sftfilter import stats
from sftfilter.capability import Capability, broken
from sftfilter.repetition import repeated_share

_LOOPS = 0.5

Rows = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""(student, trait) -> its rows of table `results`."""


def ability_cells(students: Sequence[str | None], evaluated: Evaluated, tables: Rows) -> dict[str, stats.Cells]:
    """`loss` (nats a token), `following` and `coherent` (shares) of an arm's students: [prompt, seed] each.

    Args:
        students: one for each seed; None where none was trained, which gives a column of NaN.
    """
    found: dict[str, stats.Cells] = {}
    for name in ("loss", "following", "coherent"):
        columns = [_column(name, student, evaluated, tables) if student else None for student in students]
        size = max((len(column) for column in columns if column is not None), default=0)
        if size:
            found[name] = np.array([[np.nan] * size if c is None else c for c in columns], dtype=float).T
    return found


def ability_record(cells: Mapping[str, stats.Cells]) -> dict[str, Any]:
    """Estimates for results.json."""
    return {name: (stats.mean if name == "loss" else stats.rate)(matrix).as_dict() for name, matrix in cells.items()}


def broken_arms(
    cells: Mapping[str, Mapping[str, stats.Cells]], base: str | None, limits: Capability | None
) -> dict[str, str] | None:
    """Arm -> why its students are broken; None when nothing was measured.

    Args:
        cells: arm -> `ability_cells`.
        base: the arm of the untrained base, to compare with.
    """
    if limits is None or not (limits.loss or limits.instructions):
        return None
    against = cells.get(base) if base else None
    found = {arm: broken(measured, against, limits) for arm, measured in cells.items() if arm != base}
    return {arm: why for arm, why in found.items() if why}


def coherent_share(rows: Sequence[Mapping[str, Any]]) -> stats.Cells:
    """Share of the answers to each prompt that neither loop nor are empty: [prompt, 1]."""
    return np.array(_by_prompt(rows, _coherent), dtype=float)[:, None]


def _column(name: str, student: str, evaluated: Evaluated, tables: Rows) -> list[float] | None:
    if name == "loss":
        artifact = evaluated.losses.get(student)
        return artifact.table("loss").sort_by("prompt_id")["nats"].to_pylist() if artifact else None
    if name == "following":
        artifact = evaluated.following.get(student)
        return _by_prompt(artifact.table("results").to_pylist(), _graded) if artifact else None
    rows = [row for (other, trait), rows in tables.items() if other == student and trait != FOLLOWING for row in rows]
    return _by_prompt(rows, _coherent) if rows else None


def _by_prompt(rows: Sequence[Mapping[str, Any]], measure: Any) -> list[float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["prompt_id"], []).append(measure(row))
    return [float(np.mean(v)) for _, v in sorted(values.items())]


def _graded(row: Mapping[str, Any]) -> float:
    return float(row["grade"] or 0.0)  # an answer that is not there follows no instruction


def _coherent(row: Mapping[str, Any]) -> float:
    return float(bool(row["answer"].strip()) and repeated_share(row["answer"]) < _LOOPS)
