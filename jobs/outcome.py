"""results.json and the report: everything a run found out, with what it takes to check it."""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.arms import ArmPlan, scored_rows
from jobs.console import Stages
from jobs.kinds.experiment import Experiment
from jobs.outcome_rows import heldout_rows, left_over, scorer_quality, training_rows
from jobs.tutoring import Base
from sftfilter import stats
from sftfilter.artifacts import Artifact, disk_errors
from sftfilter.estimands import estimate_all
from sftfilter.verdict import Evidence, judge

_PACKAGES = ("ray", "torch", "transformers", "deepspeed", "peft", "datasets", "pydantic", "pyarrow", "sftfilter")


@dataclass(frozen=True)
class Made:
    """What the stages made."""

    base: Base
    prompts: Artifact
    heldout: Mapping[str, Artifact]
    rollouts: Mapping[str, Artifact]
    scores: Mapping[str, Artifact]
    plans: Sequence[ArmPlan]
    students: Mapping[str, Artifact]
    graded: Mapping[tuple[str, str], Artifact]


def write_outcome(spec: Experiment, root: Path, made: Made, stages: Stages, command: str) -> dict[str, Any]:
    """Write `root/<name>/results.json` and the report; answers the results."""
    from sftfilter.report import write_report

    folder = root / spec.name
    tables = {pair: artifact.table("results").to_pylist() for pair, artifact in made.graded.items()}
    results = assemble(spec, made, tables, stages, command)
    results["verdict"]["reasons"] += changed_gates(folder)
    rows = training_rows(spec, made.prompts, made.rollouts, made.scores, made.plans)
    held = heldout_rows(spec, made.heldout, tables)
    with disk_errors(folder):
        (folder / "report").mkdir(parents=True, exist_ok=True)
        partial = folder / ".results.json.partial"
        partial.write_text(json.dumps(results, indent=2, allow_nan=False))
        write_report(folder / "report", results, rows, held)
        partial.replace(folder / "results.json")
    return results


def freeze_gates(folder: Path, gates: Mapping[str, Any]) -> None:
    """Write the gates down before any arm runs; a change is added to the history, never written over it."""
    folder.mkdir(parents=True, exist_ok=True)
    history = _gate_history(folder)
    if not history or history[-1]["gates"] != gates:
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        (folder / "gates.json").write_text(json.dumps([*history, {"since": when, "gates": dict(gates)}], indent=2))


def changed_gates(folder: Path) -> list[str]:
    """A sentence for each change of the gates since they were first written down."""
    history = _gate_history(folder)
    sentences = []
    for before, after in itertools.pairwise(history):
        moved = [
            f"{k} from {before['gates'].get(k)} to {v}"
            for k, v in after["gates"].items()
            if before["gates"].get(k) != v
        ]
        sentences.append(f"gates were changed on {after['since']}, after the first run: {', '.join(moved)}")
    return sentences


def _gate_history(folder: Path) -> list[dict[str, Any]]:
    try:
        return json.loads((folder / "gates.json").read_text())
    except FileNotFoundError:
        return []


def assemble(
    spec: Experiment,
    made: Made,
    tables: Mapping[tuple[str, str], list[dict[str, Any]]],
    stages: Stages,
    command: str,
) -> dict[str, Any]:
    """results.json as a dictionary."""
    trait = next(iter(spec.traits))
    primary = spec.traits[trait].primary
    cells = {role: grade_cells(arm, made.plans, tables, trait, primary) for role, arm in spec.roles.named().items()}
    cells = {role: matrix for role, matrix in cells.items() if matrix.size and not np.isnan(matrix).all()}
    estimands = estimate_all(cells, _share_in_s(spec, made))
    controls = in_cutoff_note(spec, made.plans, tables, trait)
    evidence = Evidence(
        rates={role: stats.rate(matrix).as_dict() for role, matrix in cells.items()},
        estimands=estimands,
        seeds=len(spec.seeds),
        left_over=left_over(spec, made.plans, made.rollouts, trait),
        problems=[
            f"role {role}: arm {arm} gave nothing to grade"
            for role, arm in spec.roles.named().items()
            if role not in cells
        ]
        + controls,
    )
    verdict, gates = judge(evidence, spec.gates)
    scored = scored_rows(made.prompts, made.rollouts[spec.original_teacher], made.scores)
    return {
        "name": spec.name,
        "kind": spec.kind,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "verdict": verdict,
        "gates": gates,
        "estimands": estimands,
        "arms": arm_records(spec, made, tables),
        "scorers": {name: scorer_quality(spec, name, scored, trait) for name in spec.scorers},
        "counts": _counts(made),
        "timings_s": stages.seconds | {"total": stages.total()},
        "peak_rss_gib": round(stages.memory.peak_gib, 2),
        "spec_hash": spec.spec_hash,
        "base_hash": made.base.hash,
        "format_hash": made.base.chat.hash,
        "spec": spec.model_dump(mode="json"),
        "versions": {p: importlib.metadata.version(p) for p in _PACKAGES} | {"cores": os.cpu_count()},
        "stages": stages.artifacts,
    }


def in_cutoff_note(
    spec: Experiment, plans: Sequence[ArmPlan], tables: Mapping[tuple[str, str], list[dict[str, Any]]], trait: str
) -> list[str]:
    """A caution when the original's students show the trait on the last group, the control prompts, as well."""
    groups = list(spec.traits[trait].groups)
    found = stats.rate(grade_cells(spec.roles.original, plans, tables, trait, groups[-1])) if len(groups) > 1 else None
    if found is None or found.low is None or found.low <= spec.gates.max_clean_rate:
        return []
    return [
        f"not specific: students of the original show {trait} on {found.estimate:.0%} of the {groups[-1]} prompts too, "
        "so what they learned is broader than the trait's name"
    ]


def grade_cells(
    arm: str,
    plans: Sequence[ArmPlan],
    tables: Mapping[tuple[str, str], list[dict[str, Any]]],
    trait: str,
    group: str,
    column: str = "grade",
) -> stats.Cells:
    """Matrix [prompt, seed] of one arm's grades (or of another measure), samples averaged."""
    students = [p.student for p in plans if p.name == arm]
    columns = []
    for student in students:
        sums: dict[str, list[float]] = {}
        for row in tables[student, trait]:
            if row["group"] == group:
                values = sums.setdefault(row["prompt_id"], [])
                if row[column] is not None:
                    values.append(row[column])
        columns.append([float(np.mean(v)) if v else np.nan for _, v in sorted(sums.items())])
    return np.array(columns, dtype=float).T


def arm_records(
    spec: Experiment, made: Made, tables: Mapping[tuple[str, str], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """One record an arm: settings, rows, training, and every trait's estimates by group."""
    role_of = {arm: role for role, arm in reversed(spec.roles.named().items())}
    records = []
    for name, arm in spec.arms.items():
        plans = [p for p in made.plans if p.name == name]
        checkpoints = [made.students[p.student] for p in plans if p.plan is not None]
        records.append(
            {
                "name": name,
                "role": role_of.get(name),
                "teacher": arm.teacher,
                "intervention": arm.intervention.model_dump() if arm.intervention else None,
                "seeds": [p.seed for p in plans if p.plan is not None],
                "rows": plans[0].counts,
                "students": [p.student for p in plans],
                "training": _training(checkpoints),
                "losses": json.loads((checkpoints[0].path / "losses.json").read_text()) if checkpoints else None,
                "traits": {trait: _trait(spec, made, tables, name, trait) for trait in spec.traits},
            }
        )
    return records


def _training(checkpoints: Sequence[Artifact]) -> dict[str, Any] | None:
    if not checkpoints:
        return None
    meta = checkpoints[0].meta
    kept = {key: meta[key] for key in ("steps", "first_loss", "last_loss", "model_hash", "plan_hash")}
    return kept | {"seconds": round(sum(c.meta["seconds"] for c in checkpoints), 2)}


def _trait(
    spec: Experiment, made: Made, tables: Mapping[tuple[str, str], list[dict[str, Any]]], arm: str, trait: str
) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for group in spec.traits[trait].groups:
        cells = grade_cells(arm, made.plans, tables, trait, group)
        students = [p.student for p in made.plans if p.name == arm]
        ungraded = sum(r["grade"] is None for s in students for r in tables[s, trait] if r["group"] == group)
        groups[group] = stats.rate(cells).as_dict() | {"ungraded": ungraded} if cells.size else None
    odds = grade_cells(arm, made.plans, tables, trait, spec.traits[trait].primary, "log_odds")
    groups["log_odds"] = stats.mean(odds).as_dict() if odds.size and not np.isnan(odds).all() else None
    return {name: value for name, value in groups.items() if value is not None or name == "log_odds"}


def _share_in_s(spec: Experiment, made: Made) -> float | None:
    arm = spec.roles.swap or spec.roles.drop
    plan = next((p for p in made.plans if p.name == arm), None)
    if plan is None or plan.subset is None:
        return None
    return len(plan.subset.prompt_ids) / len({d["prompt_id"] for d in plan.decisions})


def _counts(made: Made) -> dict[str, Any]:
    def numbers(artifact: Artifact) -> dict[str, int]:
        return {key: value for key, value in artifact.meta.items() if isinstance(value, int)}

    return {
        "prompts": numbers(made.prompts),
        **{f"held-out {name}": numbers(a) for name, a in made.heldout.items()},
        **{f"rollouts of {name}": numbers(a) for name, a in made.rollouts.items()},
        **{f"scores by {name}": numbers(a) for name, a in made.scores.items()},
        **{f"arm {p.student}": p.counts for p in made.plans if p.plan is not None},
        "answers": {f"{student} on {trait}": a.meta["rows"] for (student, trait), a in made.graded.items()},
    }
