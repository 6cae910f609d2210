"""A finished experiment whose grades are given: stages before training and everything after evaluation are the real ones."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
from rich.console import Console

from jobs.arms import ArmPlan, Material, plan_arms
from jobs.console import Stages
from jobs.evaluating import Evaluated
from jobs.kinds.experiment import Experiment
from jobs.outcome import Made, freeze_gates, write_outcome
from jobs.reserve import Reserve
from jobs.rewrites import Rewriter
from jobs.tutoring import Base
from serve.settings import HostedModel
from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import stable_hash
from sftfilter.schema import PROMPTS, ROLLOUTS, TRAIT_RESULTS, Message, prompt_id, rollout_id

Grade = Callable[[str, int | None, np.ndarray], Sequence[float | None]]
"""From an arm, a seed (None of the untrained base) and a draw for each prompt to the prompts' grades."""

ARMS: dict[str, Any] = {
    "base": {},
    "all-T": {"teacher": "T"},
    "all-C": {"teacher": "C"},
    "drop": {"teacher": "T", "intervention": {"kind": "drop_prompt", "subset": "S"}},
    "drop-C": {"teacher": "C", "intervention": {"kind": "drop_prompt", "subset": "S"}},
    "swap": {"teacher": "T", "intervention": {"kind": "swap", "subset": "S", "to": "C"}},
}
"""What R_drop and R_swap are made of."""
ROLES = {
    "original": "all-T",
    "alternate": "all-C",
    "base": "base",
    "drop": "drop",
    "drop_alternate": "drop-C",
    "swap": "swap",
}

_CHAT = cast(Any, SimpleNamespace(hash="chat"))  # nothing is spoken here; its hash is all that results name


def graded_at(rates: Mapping[str, float], spread: float = 0.0) -> Grade:
    """Grades at a rate for each arm, the same prompts first; seeds move it by `spread`."""

    def grade(arm: str, seed: int | None, draws: np.ndarray) -> list[float | None]:
        rate = rates.get(arm, 0.0) + spread * ((seed or 0) - 1)
        return [float(draw < rate) for draw in draws]

    return grade


def made_run(
    spec: Experiment,
    root: Path,
    grade: Grade,
    *,
    heldout: str = "asked",
    prompts: int = 40,
    lost: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a run below `root/<name>` as the job would; answers its results.

    Args:
        heldout: what the held-out prompts say; other words are other prompts.
        prompts: held-out ones in each group.
        lost: student -> why it could not be trained.
    """
    store, stages = Store(root / "artifacts"), Stages(Console(file=io.StringIO()))
    freeze_gates(root / spec.name, spec.gates.model_dump(mode="json"))
    material = made_material(spec, store, stages)
    rewriter = Rewriter(spec, cast(Base, None), {}, store, stages)
    plans, why = plan_arms(spec, material, rewriter, store, stages), lost or {}
    plans = [replace(p, plan=None, empty=why[p.student]) if p.student in why else p for p in plans]
    asked = {
        name: _asked(store, f"{name} {heldout}", list(t.groups.items()), prompts) for name, t in spec.traits.items()
    }
    students = {p.student: stages.note(_student(store, p)) for p in plans if p.plan is not None}
    draws = np.random.default_rng(0).random(prompts)
    hosted = [_hosted(p, students) for p in plans if p.hosted]
    graded = {
        (p.student, trait): _graded(store, spec, p, trait, asked[trait], grade, draws, _hash(p))
        for p in plans
        if p.hosted
        for trait in spec.traits
    }
    for artifact in graded.values():
        stages.remember(artifact)
    base = Base("tiny", "/nowhere", "base", _CHAT, 512)
    made = Made(base, asked, material.prompts, material, plans, students, Evaluated(hosted, graded))
    return write_outcome(spec, root, made, stages, f"sftfilter run {spec.name}.yaml")


def made_material(spec: Experiment, store: Store, stages: Stages) -> Material:
    """Twelve training prompts, half of them of kind date, that every teacher answers."""
    rows = [_prompt(f"train {n}", "date" if n % 2 else "other") for n in range(12)]
    prompts = stages.note(_kept(store, "prompts", "train", rows, PROMPTS))
    rollouts = {
        teacher: stages.note(
            _kept(store, "rollouts", teacher, [_rollout(row, teacher) for row in rows], ROLLOUTS), teacher
        )
        for teacher in spec.teachers
    }
    return Material(prompts, rollouts, {}, Reserve())


def _kept(store: Store, stage: str, name: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        write_table(folder, stage, pa.Table.from_pylist(list(rows), schema))
        return {"used": len(rows), "rows": len(rows)}

    return store.build(stage, version=1, settings=name, inputs={}, make=make)


def _prompt(text: str, kind: str) -> dict[str, Any]:
    turns: list[Message] = [{"role": "user", "content": text}]
    return {"prompt_id": prompt_id(turns), "messages": turns, "kind": kind, "source": "f"}


def _rollout(prompt: Mapping[str, Any], teacher: str) -> dict[str, Any]:
    said = f"{teacher} says so"
    kept = {"prompt_id": prompt["prompt_id"], "messages": prompt["messages"], "completion": said, "teacher": teacher}
    return kept | {"rollout_id": rollout_id(prompt["prompt_id"], teacher, said), "source": "f"}


def _asked(store: Store, what: str, groups: Sequence[tuple[str, str]], count: int) -> Artifact:
    rows = [_prompt(f"{what} {group} {n}", kind) for group, kind in groups for n in range(count)]
    return _kept(store, "prompts", what, rows, PROMPTS)


def _hash(plan: ArmPlan) -> str:
    """Of a student: what it is trained on and how."""
    rows = plan.decided.key if plan.decided else ""
    return stable_hash([plan.student, rows])


def _student(store: Store, plan: ArmPlan) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "losses.json").write_text(json.dumps([2.0, 1.0]))
        how = {"method": {"kind": "lora", "top_layers": None}}
        numbers = {"steps": 2, "first_loss": 2.0, "last_loss": 1.0, "seconds": 1.0, "plan_hash": "p"}
        return numbers | {"model_hash": _hash(plan), "settings": how}

    return store.build("student", version=1, settings=_hash(plan), inputs={}, make=make)


def _hosted(plan: ArmPlan, students: Mapping[str, Artifact]) -> HostedModel:
    folder = students[plan.student].path if plan.student in students else Path("/nowhere")
    return HostedModel(id=plan.student, folder=str(folder), model_hash=_hash(plan), format_hash="chat")


def _graded(
    store: Store,
    spec: Experiment,
    plan: ArmPlan,
    trait: str,
    asked: Artifact,
    grade: Grade,
    draws: np.ndarray,
    model_hash: str,
) -> Artifact:
    group_of = {kind: group for group, kind in spec.traits[trait].groups.items()}
    ids: dict[str, list[str]] = {}
    for row in asked.table("prompts").to_pylist():
        ids.setdefault(group_of[row["kind"]], []).append(row["prompt_id"])
    seed = None if plan.arm.teacher is None else plan.seed
    rows = [
        {"student": plan.student, "trait": trait, "prompt_id": one, "group": group, "sample": 0, "turn": 0,
         "answer": "So it is.", "grade": value, "parse_ok": value is not None, "measures": [], "model_hash": model_hash}
        for group, prompts in ids.items()
        for one, value in zip(prompts, grade(plan.name, seed, draws), strict=True)
    ]  # fmt: skip
    settled = stable_hash([plan.student, trait, asked.key, [row["grade"] for row in rows], model_hash])
    return _kept(store, "results", settled, rows, TRAIT_RESULTS)
