"""The tidy table of a sweep: a row for each point, arm, trait and group of prompts, all else in columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jobs.abilities import ability_cells, ability_record, broken_arms
from jobs.arms import ArmPlan
from jobs.evaluating import Evaluated
from jobs.grades import grade_cells
from jobs.sweep_points import short_names
from jobs.sweep_students import Planned
from sftfilter import stats

Rows = list[dict[str, Any]]

TEXTS = ("point", "arm", "role", "teacher", "models", "problem", "broken", "trait", "group")
NUMBERS = ("rows_trained", "rows_selected", "estimate", "low", "high")
CONTRASTS = ("difference", "difference_low", "difference_high", "p", "q")
COUNTS = ("n", "n_seeds")
_CERTAIN = ("base", "alternate", "drop_alternate", "transfer")
"""Roles of arms that are there to differ from the original; their p-values are shown and not adjusted."""


@dataclass(frozen=True)
class Measured:
    """A point with its students' grades under the students' own names.

    Attributes:
        plans: those whose student could not be trained say so in `empty`.
        tables: (student, trait) -> rows of the table `results`.
    """

    one: Planned
    plans: Sequence[ArmPlan]
    tables: Mapping[tuple[str, str], list[dict[str, Any]]]

    def models(self, arm: str) -> list[str]:
        """Models that an arm's students are, by seed; equal lists are the same arm in all but name."""
        return [self.one.models[plan.student] for plan in self.plans if plan.name == arm and plan.hosted]


def measured(one: Planned, failed: Mapping[str, str], graded: Mapping[tuple[str, str], Rows]) -> Measured:
    """A point's grades.

    Args:
        failed: model -> why it could not be trained.
        graded: (model, trait) -> rows of the table `results`.
    """
    plans = [
        replace(plan, empty=failed[one.models[plan.student]]) if one.models.get(plan.student) in failed else plan
        for plan in one.plans
    ]
    hosted = [plan.student for plan in plans if plan.hosted]
    traits = one.point.spec.traits
    return Measured(one, plans, {(name, trait): graded[one.models[name], trait] for name in hosted for trait in traits})


def point_abilities(point: Measured, evaluated: Evaluated) -> dict[str, dict[str, Any]]:
    """Arm -> what its students can do beside the traits, and `broken`: why they are no good, if they are not."""
    spec = point.one.point.spec
    tables = {(point.one.models[name], trait): rows for (name, trait), rows in point.tables.items()}
    cells = {}
    for arm in spec.arms:
        plans = [plan for plan in point.plans if plan.name == arm]
        students = [point.one.models[plan.student] if plan.hosted else None for plan in plans]
        cells[arm] = ability_cells(students, evaluated, tables)
    broken = broken_arms(cells, spec.roles.base, spec.capability) or {}
    return {arm: ability_record(matrices) | {"broken": broken.get(arm)} for arm, matrices in cells.items()}


def tidy(points: Sequence[Measured], abilities: Sequence[Mapping[str, Mapping[str, Any]]]) -> Rows:
    """Every row, with the p-values of changed arms adjusted over the whole sweep."""
    columns = columns_of(points)
    rows: Rows = []
    for point, able in zip(points, abilities, strict=True):
        spec = point.one.point.spec.model_dump(mode="json")
        where = {name: _value(spec, field) for field, name in columns.items()}
        for arm in point.one.point.spec.arms:
            known = {"point": point.one.point.label, **where} | arm_facts(point, arm) | {"broken": able[arm]["broken"]}
            for trait in point.one.point.spec.traits:
                rows += [known | row for row in _rates(point, arm, trait)]
    _adjust(rows)
    return rows


def columns_of(points: Sequence[Measured]) -> dict[str, str]:
    """Swept field -> its column."""
    fields = dict.fromkeys(field for point in points for field in point.one.point.settings)
    return short_names(fields, (*TEXTS, *NUMBERS, *CONTRASTS, *COUNTS, "primary"))


def _value(spec: Mapping[str, Any], field: str) -> Any:
    """A point's value, its own or the experiment's. Lists and mappings as JSON, so that a column can hold them."""
    value: Any = spec
    for part in field.split("."):
        value = value[part]
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)


def arm_facts(point: Measured, arm: str) -> dict[str, Any]:
    """Columns that say what an arm is, and what came of training it."""
    spec = point.one.point.spec
    plans = [plan for plan in point.plans if plan.name == arm]
    roles = [role for role, name in spec.roles.named().items() if name == arm]
    reasons = dict.fromkeys(plan.empty for plan in plans if plan.empty)
    return {
        "arm": arm,
        "role": roles[0] if roles else None,
        "teacher": spec.arms[arm].teacher,
        "rows_trained": float(np.mean([plan.counts["trained"] for plan in plans])),
        "rows_selected": _selected(plans),
        "n_seeds": sum(plan.plan is not None and plan.hosted for plan in plans),
        "models": " ".join(point.models(arm)),
        "problem": "; ".join(reasons) or None,
    }


def _selected(plans: Sequence[ArmPlan]) -> float | None:
    found = [plan.subset["rows"] for plan in plans if plan.subset]
    return float(np.mean(found)) if found else None


def _rates(point: Measured, arm: str, trait: str) -> Rows:
    """The rate in each group; in the first, which is the trait's own, the difference from the point's original arm."""
    spec = point.one.point.spec
    groups = list(spec.traits[trait].groups)
    rows: Rows = []
    for group in groups:
        row = {"trait": trait, "group": group, "primary": group == groups[0], **rate_of(point, arm, trait, group)}
        rows.append(row | _difference(point, arm, trait, group if row["primary"] else None))
    return rows


def _difference(point: Measured, arm: str, trait: str, group: str | None) -> dict[str, Any]:
    """Arm minus original; no p-value where both are the same students, since nothing was compared."""
    none: dict[str, Any] = dict.fromkeys(CONTRASTS)
    original = point.one.point.spec.roles.original
    if group is None or arm == original:
        return none
    first, second = (arm_cells(point, name, trait, group) for name in (arm, original))
    if not first.size or not second.size:
        return none
    if first.shape[1] == 1 < second.shape[1] and point.one.point.spec.arms[arm].teacher is None:
        first = np.repeat(first, second.shape[1], axis=1)  # the untrained base is the same for every seed
    if point.models(arm) == point.models(original):  # a student is known not to differ from itself
        return none | {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
    found = stats.paired_difference(first, second)
    shown = {"difference": found.estimate, "difference_low": found.low, "difference_high": found.high}
    return none | shown | {"p": found.p}


def rate_of(point: Measured, arm: str, trait: str, group: str) -> dict[str, Any]:
    """An arm's rate with its interval; all None when nothing was graded."""
    cells = arm_cells(point, arm, trait, group)
    return (stats.rate(cells) if cells.size else stats.Estimate(None, None, None, 0)).as_dict()


def arm_cells(point: Measured, arm: str, trait: str, group: str) -> stats.Cells:
    """Matrix [prompt, seed] of an arm's grades."""
    return grade_cells(arm, point.plans, point.tables, trait, group)


def comparisons(rows: Rows) -> list[Rows]:
    """Every distinct comparison of a changed arm's students with the original's, each with the rows that show it.

    Arms that differ from the original for certain are left out: the untrained base, other teachers' arms, and the original
    teacher on S alone. Discoveries that nobody doubts would make room for doubtful ones.
    """
    originals = {(row["point"], row["trait"]): row for row in rows if row["role"] == "original"}
    found: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        original = originals[row["point"], row["trait"]]
        # students of the same teacher that differ from the original's were trained on changed rows
        if row["p"] is not None and row["teacher"] == original["teacher"] and row["role"] not in _CERTAIN:
            found.setdefault((row["models"], original["models"], row["trait"]), []).append(row)
    return list(found.values())


def _adjust(rows: Rows) -> None:
    """Benjamini and Hochberg over the changed arms of the sweep; a comparison that several points share counts once."""
    found = comparisons(rows)
    adjusted = stats.benjamini_hochberg([shared[0]["p"] for shared in found])
    for shared, q in zip(found, adjusted, strict=True):
        for row in shared:
            row["q"] = q
