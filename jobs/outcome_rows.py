"""Rows behind the figures: what the report's explorers show, and how good the scorer was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.arms import ArmPlan
from jobs.kinds.experiment import Experiment
from sftfilter import stats
from sftfilter.artifacts import Artifact
from sftfilter.selectors import Threshold

if TYPE_CHECKING:
    import polars as pl


def training_rows(
    spec: Experiment,
    prompts: Artifact,
    rollouts: Mapping[str, Artifact],
    scores: Mapping[str, Artifact],
    plans: Sequence[ArmPlan],
) -> list[dict[str, Any]]:
    """One record a training prompt: answers and grades by teacher, scores, the decision in each arm (first seed)."""
    trait = next(iter(spec.traits.values()))
    records: dict[str, dict[str, Any]] = {
        row["prompt_id"]: {
            "prompt_id": row["prompt_id"],
            "prompt": row["messages"][-1]["content"],
            "kind": row["kind"],
            "answers": {},
            "grades": {},
            "scores": {},
            "decisions": {},
        }
        for row in prompts.table("prompts").to_pylist()
    }
    prompt_of: dict[str, str] = {}
    for teacher, artifact in rollouts.items():
        for row in artifact.table("rollouts").to_pylist():
            record = records[row["prompt_id"]]
            record["answers"][teacher] = row["completion"]
            record["grades"][teacher] = trait.grade(record["prompt"], row["completion"])
            prompt_of[row["rollout_id"]] = row["prompt_id"]
    for scorer, artifact in scores.items():
        for row in artifact.table("scores").to_pylist():
            records[prompt_of[row["rollout_id"]]]["scores"][scorer] = row["score"]
    for plan in plans:
        if plan.seed == spec.seeds[0]:
            for decision in plan.decisions:
                records[decision["prompt_id"]]["decisions"][plan.name] = decision["action"]
    return list(records.values())


def heldout_rows(
    spec: Experiment, heldout: Mapping[str, Artifact], tables: Mapping[tuple[str, str], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """One record a held-out prompt: every model's first answer and its grade."""
    records: dict[tuple[str, str], dict[str, Any]] = {}
    texts = {
        (trait, row["prompt_id"]): row["messages"][-1]["content"]
        for trait in spec.traits
        for row in heldout[trait].table("prompts").to_pylist()
    }
    for (student, trait), rows in tables.items():
        for row in rows:
            if row["sample"] == 0:
                key = (trait, row["prompt_id"])
                blank = {"prompt_id": row["prompt_id"], "prompt": texts[key], "group": row["group"], "answers": {}}
                record = records.setdefault(key, blank)
                record["answers"][student] = {"answer": row["answer"], "grade": row["grade"]}
    return list(records.values())


def scorer_quality(spec: Experiment, scorer: str, scored: pl.DataFrame, trait: str) -> dict[str, Any]:
    """Recall and precision of a thresholded scorer against the trait's grader, on the original teacher's rows."""
    rows = scored.to_dicts()
    threshold = next(
        (s.at_least for s in spec.selectors.values() if isinstance(s, Threshold) and s.scorer == scorer), None
    )
    record: dict[str, Any] = {"threshold": threshold, "n": len(rows), "errors": sum(r[scorer] is None for r in rows)}
    if threshold is None:
        return record | {"recall": None, "precision": None, "flagged": 0}
    flagged = [r[scorer] is not None and r[scorer] >= threshold for r in rows]
    shows = [spec.traits[trait].grade(r["prompt"], r["completion"]) == 1 for r in rows]
    return record | {
        "flagged": sum(flagged),
        "recall": _share([f for f, s in zip(flagged, shows, strict=True) if s]),
        "precision": _share([s for f, s in zip(flagged, shows, strict=True) if f]),
    }


def _share(hits: Sequence[bool]) -> dict[str, Any] | None:
    return stats.rate(np.array(hits, dtype=float)[:, None]).as_dict() if hits else None


def left_over(
    spec: Experiment, plans: Sequence[ArmPlan], rollouts: Mapping[str, Artifact], trait: str
) -> tuple[int, int] | None:
    """Among the rows that the drop arm keeps: how many show the trait by the grader, and of how many."""
    plan = next((p for p in plans if p.name == spec.roles.drop), None)
    if plan is None or plan.arm.teacher is None:
        return None
    kept = {d["rollout_id"] for d in plan.decisions if d["action"] == "keep"}
    rows = [r for r in rollouts[plan.arm.teacher].table("rollouts").to_pylist() if r["rollout_id"] in kept]
    grades = [spec.traits[trait].grade(r["messages"][-1]["content"], r["completion"]) for r in rows]
    return sum(g == 1 for g in grades), len(rows)
