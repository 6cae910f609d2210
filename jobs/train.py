"""Job `train`: training sets in, a checkpoint for each and each seed out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jobs.console import Stages
from jobs.kinds.train import Train
from jobs.planning import supervised_counts
from jobs.records import base_record, row_counts, write_json
from jobs.students import train_runs
from jobs.tutoring import Base, base_of
from sftfilter.artifacts import Artifact, Store
from sftfilter.rollout_import import import_rollouts
from sftfilter.training import TrainingRun
from sftfilter.training_plan import make_plan


def run_train(spec: Train, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Train what is not trained yet, print and write down where the checkpoints lie."""
    store, folder = Store(root / "artifacts"), root / spec.name
    base = base_of(spec.base_model, spec.system_prompt)
    with stages.stage("rows", f"{', '.join(spec.students)}: read, bad rows quarantined"):
        sets = {
            name: stages.note(import_rollouts(name, given, None, store=store, error_budget=spec.error_budget), name)
            for name, given in spec.students.items()
        }
    with stages.stage("training", f"{len(sets) * len(spec.seeds)} students, those with equal rows once"):
        students = train_runs(spec, base, _runs(spec, base, sets), store, folder, stages)
    record = base_record(spec, stages, command) | {
        "counts": {name: row_counts(rows) for name, rows in sets.items()},
        "students": {name: _described(student) for name, student in students.items()},
    }
    write_json(folder / "train.json", record)
    for name, student in students.items():
        losses = f"loss {student.meta['first_loss']:.2f} to {student.meta['last_loss']:.2f}"
        stages.console.print(f"{name}: {student.meta['steps']} steps, {losses}  {student.path}", soft_wrap=True)
    return record


def _runs(spec: Train, base: Base, sets: Mapping[str, Artifact]) -> list[TrainingRun]:
    """Students share seeds and the order of the prompts that their sets have in common, so that they can be compared."""
    tables = {name: rows.table("rollouts") for name, rows in sets.items()}
    prompts = sorted({prompt for table in tables.values() for prompt in table["prompt_id"].to_pylist()})
    runs = []
    for name, table in tables.items():
        pairs = list(zip(table["prompt_id"].to_pylist(), table["rollout_id"].to_pylist(), strict=True))
        rows = table.select(["rollout_id", "messages", "completion"]).rename_columns(
            ["row_id", "messages", "completion"]
        )
        labels = {"arm": name, "training_set": sets[name].key, "parent_model": base.name, "spec_hash": spec.spec_hash}
        for seed in spec.seeds:
            counts = partial(supervised_counts, rows, base.chat, spec.training)
            plan = make_plan(pairs, prompts, spec.training, seed, counts)
            runs.append(TrainingRun(f"{name}-s{seed}", seed, rows.sort_by("row_id"), plan, spec.training, labels))
    return runs


def _described(student: Artifact) -> dict[str, Any]:
    kept = ("steps", "first_loss", "last_loss", "model_hash", "format_hash", "plan_hash", "seconds")
    return {"checkpoint": str(student.path)} | {key: student.meta.get(key) for key in kept}
