"""Rows behind the figures: what the report's explorers show, and how good the scorer was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.arms import ArmPlan, Material
from jobs.kinds.experiment import Experiment
from sftfilter import stats
from sftfilter.artifacts import Artifact
from sftfilter.selectors import Threshold

if TYPE_CHECKING:
    import polars as pl


def training_rows(spec: Experiment, material: Material, plans: Sequence[ArmPlan]) -> list[dict[str, Any]]:
    """One record a training prompt and answer to it: by teacher, its grade and scores, and each arm's decision.

    Where teachers gave several answers to a prompt, its n-th record holds every teacher's n-th, by rollout id. Decisions
    are those of the first seed.
    """
    trait = next(iter(spec.traits.values()))
    prompts = {row["prompt_id"]: row for row in material.prompts.table("prompts").to_pylist()}
    records = {(identity, 0): _blank(row) for identity, row in prompts.items()}
    place: dict[str, tuple[str, int]] = {}
    for teacher, artifact in material.rollouts.items():
        seen: Counter[str] = Counter()
        for row in artifact.table("rollouts").sort_by("rollout_id").to_pylist():
            prompt = row["prompt_id"]
            at = place[row["rollout_id"]] = (prompt, seen[prompt])
            seen[prompt] += 1
            record = records.setdefault(at, _blank(prompts[prompt]))
            record["answers"][teacher] = row["completion"]
            record["grades"][teacher] = trait.grade(record["prompt"], row["completion"])
    for (teacher, scorer), artifact in material.scores.items():
        name = scorer if teacher == spec.original_teacher else f"{scorer} of {teacher}"
        for row in artifact.table("scores").select(["rollout_id", "score"]).to_pylist():
            records[place[row["rollout_id"]]]["scores"][name] = row["score"]
    for plan in plans:
        if plan.seed == spec.seeds[0]:
            for action, rollout in plan.decisions().select("action", "rollout_id").iter_rows():
                if rollout in place:  # a row added from the reserve answers no training prompt
                    records[place[rollout]]["decisions"][plan.name] = action
    order = {identity: number for number, identity in enumerate(prompts)}
    return [records[at] for at in sorted(records, key=lambda at: (order[at[0]], at[1]))]


def _blank(prompt: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"prompt_id": prompt["prompt_id"], "prompt": prompt["messages"][-1]["content"], "kind": prompt["kind"]}
    shown["source"] = prompt.get("source")
    return shown | {"answers": {}, "grades": {}, "scores": {}, "decisions": {}}


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


def scored_rows(material: Material, teacher: str) -> pl.DataFrame:
    """One teacher's rows: rollout_id, prompt (its last turn), completion, and a column for each scorer."""
    import polars as pl

    def frame(artifact: Artifact, table: str) -> pl.LazyFrame:
        return pl.scan_parquet(artifact.path / f"{table}.parquet")

    prompt = pl.col("messages").list.last().struct.field("content").alias("prompt")
    rows = frame(material.rollouts[teacher], "rollouts").select("rollout_id", prompt, "completion")
    for (scored, name), artifact in material.scores.items():
        if scored == teacher:
            column = frame(artifact, "scores").select("rollout_id", pl.col("score").alias(name))
            rows = rows.join(column, on="rollout_id", how="left", validate="1:1")
    return rows.sort("rollout_id").collect()


def scorer_quality(spec: Experiment, scorer: str, scored: pl.DataFrame, trait: str) -> dict[str, Any]:
    """Recall and precision of a thresholded scorer against the trait's grader, on the original teacher's rows."""
    cut = next((s for s in spec.selectors.values() if isinstance(s, Threshold) and s.scorer == scorer), None)
    score = scored[scorer]
    record: dict[str, Any] = {"threshold": cut and cut.bound, "n": len(score), "errors": score.null_count()}
    if cut is None:
        return record | {"recall": None, "precision": None, "flagged": 0}
    flagged = cut.holds(score, cut.bound).fill_null(False).to_list()
    shows = [spec.traits[trait].grade(r["prompt"], r["completion"]) == 1 for r in scored.iter_rows(named=True)]
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
    decisions = plan.decisions()
    kept = set(decisions.filter(decisions["action"] == "keep")["rollout_id"])
    rows = [r for r in rollouts[plan.arm.teacher].table("rollouts").to_pylist() if r["rollout_id"] in kept]
    grades = [spec.traits[trait].grade(r["messages"][-1]["content"], r["completion"]) for r in rows]
    return sum(g == 1 for g in grades), len(rows)
