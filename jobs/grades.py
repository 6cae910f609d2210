"""Grades of an arm's students as a matrix over prompts and seeds, which every statistic starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.arms import ArmPlan
from sftfilter import stats
from sftfilter.artifacts import Artifact
from sftfilter.traits.contract import TraitSettings


def graded_rows(results: Artifact) -> list[dict[str, Any]]:
    """Rows of a model's table `results`; a grade that is not a number is none, and is counted as such."""
    rows = results.table("results").to_pylist()
    for row in rows:
        if row["grade"] is not None and math.isnan(row["grade"]):
            row["grade"] = None
    return rows


def grade_cells(
    arm: str,
    plans: Sequence[ArmPlan],
    tables: Mapping[tuple[str, str], list[dict[str, Any]]],
    trait: str,
    group: str,
    column: str = "grade",
) -> stats.Cells:
    """Matrix [prompt, seed] of one arm's grades (or of another measure), samples averaged.

    A seed for which the arm was not trained is a column of NaN, so that arms stay paired; without any, it is empty.
    """
    columns: list[list[float] | None] = []
    for plan in plans:
        if plan.name == arm:
            columns.append(prompt_means(tables[plan.student, trait], group, column) if plan.hosted else None)
    prompts = max((len(values) for values in columns if values is not None), default=0)
    return np.array([[np.nan] * prompts if values is None else values for values in columns], dtype=float).T


def prompt_means(rows: Sequence[Mapping[str, Any]], group: str, column: str = "grade") -> list[float]:
    """One student's mean over samples for each prompt of a group, by prompt id."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        if row["group"] == group:
            values = sums.setdefault(row["prompt_id"], [])
            if row[column] is not None:
                values.append(row[column])
    return [float(np.mean(v)) if v else np.nan for _, v in sorted(sums.items())]


def ungraded_share(
    arm: str,
    plans: Sequence[ArmPlan],
    tables: Mapping[tuple[str, str], list[dict[str, Any]]],
    trait: str,
    group: str,
) -> float:
    """Share of an arm's answers to a group's prompts that have no grade; 0 without an answer."""
    students = [plan.student for plan in plans if plan.name == arm and plan.hosted]
    missing = [row["grade"] is None for s in students for row in tables[s, trait] if row["group"] == group]
    return sum(missing) / len(missing) if missing else 0.0


def measure_record(
    settings: TraitSettings,
    plans: Sequence[ArmPlan],
    tables: Mapping[tuple[str, str], list[dict[str, Any]]],
    arm: str,
    trait: str,
) -> dict[str, Any]:
    """What a trait measures beside its grade, by group: the thinking's grade, a judge's score, the share well-formed."""
    found: dict[str, Any] = {}
    own = [plan for plan in plans if plan.name == arm]
    for name in settings.measure_names:
        named = {
            (plan.student, trait): [
                row | {name: dict(row["measures"]).get(name)} for row in tables[plan.student, trait]
            ]
            for plan in own
            if plan.hosted
        }
        for group in settings.groups:
            cells = grade_cells(arm, own, named, trait, group, name)
            if cells.size and not np.isnan(cells).all():
                shares = bool((np.nan_to_num(cells) <= 1).all())
                found.setdefault(group, {})[name] = (stats.rate if shares else stats.mean)(cells).as_dict()
    return found
