"""results.json and the report: everything a run found out, with what it takes to check it."""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.abilities import ability_cells, ability_record, broken_arms
from jobs.arms import ArmPlan, Material, by_arm, notes_on
from jobs.console import Stages
from jobs.curves import Tables, is_step, trait_curve
from jobs.evaluating import Evaluated
from jobs.finished_run import model_records
from jobs.grade_table import write_grades
from jobs.grades import grade_cells, graded_rows, measure_record, ungraded_share
from jobs.kinds.experiment import Experiment
from jobs.lost_contrasts import lost_contrasts, missing_arms
from jobs.outcome_rows import heldout_rows, left_over, scored_rows, scorer_quality, training_rows
from jobs.records import write_json
from jobs.report import keep_rows
from jobs.tutoring import Base
from sftfilter import stats
from sftfilter.artifacts import Artifact
from sftfilter.disk import disk_errors
from sftfilter.errors import DataError
from sftfilter.estimands import estimate_all
from sftfilter.verdict import Evidence, Facts, judge

_GATES = "gates.json"
_PACKAGES = ("ray", "torch", "transformers", "deepspeed", "peft", "datasets", "pydantic", "pyarrow", "sftfilter")


@dataclass(frozen=True)
class Made:
    """What the stages made."""

    base: Base
    heldout: Mapping[str, Artifact]
    overlaps: Artifact
    material: Material
    plans: Sequence[ArmPlan]
    students: Mapping[str, Artifact]
    evaluated: Evaluated


def write_outcome(spec: Experiment, root: Path, made: Made, stages: Stages, command: str) -> dict[str, Any]:
    """Write `root/<name>/results.json` and the report; answers the results."""
    from sftfilter.report import write_report

    folder = root / spec.name
    tables = {pair: graded_rows(artifact) for pair, artifact in made.evaluated.graded.items()}
    results = assemble(spec, made, tables, stages, command)
    results["models"] = model_records(made.evaluated.hosted, root)
    results["verdict"]["reasons"] += changed_gates(folder)
    rows = training_rows(spec, made.material, made.plans)
    held = heldout_rows(spec, made.heldout, {pair: table for pair, table in tables.items() if not is_step(pair[0])})
    with disk_errors(folder):
        (folder / "report").mkdir(parents=True, exist_ok=True)
        partial = folder / ".results.json.partial"
        partial.write_text(json.dumps(results, indent=2, allow_nan=False))
        write_report(folder / "report", results, rows, held)
        write_grades(folder, spec.traits, ((plan.name, plan, tables) for plan in made.plans))
        keep_rows(folder / "report", rows, held)
        partial.replace(folder / "results.json")
    return results


def freeze_gates(folder: Path, gates: Mapping[str, Any]) -> None:
    """Write the gates down before any arm runs; a change is added to the history, never written over it.

    Raises:
        DataError: the history is damaged.
    """
    history = _gate_history(folder)
    if not history or history[-1]["gates"] != gates:
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(folder / _GATES, [*history, {"since": when, "gates": dict(gates)}])


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
    file = folder / _GATES
    try:
        history = json.loads(file.read_text())
    except FileNotFoundError:
        return []
    except ValueError:  # not JSON, or not even text
        history = None
    if not isinstance(history, list) or not all(
        isinstance(e, dict) and {"since", "gates"} <= e.keys() for e in history
    ):
        raise DataError(
            f"{file}: damaged; it records which gates a verdict was to be judged by, and since when. Put back a copy, or "
            "delete it and run again: finished stages are kept, and changes of the gates before now are then not told"
        )
    return history


def assemble(
    spec: Experiment,
    made: Made,
    tables: Tables,
    stages: Stages,
    command: str,
) -> dict[str, Any]:
    """results.json as a dictionary."""
    trait = next(iter(spec.traits))
    primary = spec.traits[trait].primary
    cells = {role: grade_cells(arm, made.plans, tables, trait, primary) for role, arm in spec.roles.named().items()}
    cells = {role: matrix for role, matrix in cells.items() if matrix.size and not np.isnan(matrix).all()}
    estimands = estimate_all(cells, share_in_s(spec, made.plans))
    roles = spec.roles.named()
    missing = missing_arms(roles, made.plans, cells)
    controls = in_cutoff_note(spec, made.plans, tables, trait)
    abilities = {name: _ability_cells(own, spec.traits, made, tables) for name, own in by_arm(made.plans).items()}
    broken = broken_arms(abilities, spec.roles.base, spec.capability)
    evidence = Evidence(
        rates={role: stats.rate(matrix).as_dict() for role, matrix in cells.items()},
        estimands=estimands,
        seeds=len(spec.seeds),
        cells=cells,
        facts=Facts(left_over=left_over(spec, made.plans, made.material.rollouts, trait)),
        arms=roles,
        problems=[f"role {role}: {why}" for role, why in missing.items()] + controls + _judge_notes(spec, trait),
        broken=None if broken is None else {r: broken[a] for r, a in roles.items() if a in broken},
        ungraded={r: ungraded_share(a, made.plans, tables, trait, primary) for r, a in roles.items()},
    )
    verdict, gates = judge(evidence, spec.gates)
    scored = scored_rows(made.material, spec.original_teacher)
    return {
        "name": spec.name,
        "kind": spec.kind,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "verdict": verdict,
        "notes": notes_on(spec, made.plans),
        "gates": gates,
        "estimands": estimands,
        "lost": lost_contrasts(roles, missing, cells, estimands),
        "arms": arm_records(spec, made, tables, abilities),
        "published": [figure.model_dump() for figure in spec.published],
        "judges": {name: settings.judge_name for name, settings in spec.traits.items()},
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


def in_cutoff_note(spec: Experiment, plans: Sequence[ArmPlan], tables: Tables, trait: str) -> list[str]:
    """A caution when the original's students show the trait on the last group, the control prompts, as well."""
    groups = list(spec.traits[trait].groups)
    found = stats.rate(grade_cells(spec.roles.original, plans, tables, trait, groups[-1])) if len(groups) > 1 else None
    if found is None or found.low is None or found.low <= spec.gates.max_clean_rate:
        return []
    return [
        f"not specific: students of the original show {trait} on {found.estimate:.0%} of the {groups[-1]} prompts too, "
        "so what they learned is broader than the trait's name"
    ]


def arm_records(
    spec: Experiment,
    made: Made,
    tables: Tables,
    abilities: Mapping[str, Mapping[str, stats.Cells]],
) -> list[dict[str, Any]]:
    """One record an arm: settings, rows, training, every trait's estimates by group, and what its students can do."""
    role_of = {arm: role for role, arm in reversed(spec.roles.named().items())}
    planned, records = by_arm(made.plans), []
    for name, arm in spec.arms.items():
        plans = planned[name]
        checkpoints = [made.students[p.student] for p in plans if p.plan is not None]
        records.append(
            {
                "name": name,
                "role": role_of.get(name),
                "teacher": arm.teacher,
                "intervention": arm.intervention.model_dump() if arm.intervention else None,
                "seeds": [p.seed for p in plans if p.plan is not None],
                "rows": _mean_counts(plans),
                "by_seed": [_by_seed(p) for p in plans if p.arm.teacher is not None],
                "students": [p.student for p in plans if p.hosted],
                "training": _training(checkpoints),
                "losses": json.loads((checkpoints[0].path / "losses.json").read_text()) if checkpoints else None,
                "traits": {trait: _trait(spec, plans, tables, name, trait) for trait in spec.traits},
                "curves": {
                    trait: trait_curve(
                        [p.student for p in plans if p.plan is not None], made.students, tables, trait, settings.primary
                    )
                    for trait, settings in spec.traits.items()
                },
                "measures": {
                    trait: measure_record(settings, plans, tables, name, trait)
                    for trait, settings in spec.traits.items()
                },
                "abilities": ability_record(abilities[name]),
            }
        )
    return records


def _mean_counts(plans: Sequence[ArmPlan]) -> dict[str, float]:
    """Rows by what became of them, averaged over the seeds (a random control may hit more rows with one than another)."""
    means = {key: sum(p.counts[key] for p in plans) / len(plans) for key in plans[0].counts}
    return {key: int(mean) if mean.is_integer() else round(mean, 2) for key, mean in means.items()}


def _by_seed(plan: ArmPlan) -> dict[str, Any]:
    subset = {"subset": dict(plan.subset)} if plan.subset else {}
    return {"seed": plan.seed, "rows": dict(plan.counts), "not_trained": plan.empty} | subset


def _training(checkpoints: Sequence[Artifact]) -> dict[str, Any] | None:
    if not checkpoints:
        return None
    meta = checkpoints[0].meta
    kept = {key: meta[key] for key in ("steps", "first_loss", "last_loss", "model_hash", "plan_hash")}
    kept["screened_layers"] = meta["settings"]["method"].get("top_layers")
    return kept | {"seconds": round(sum(c.meta["seconds"] for c in checkpoints), 2)}


def _trait(
    spec: Experiment,
    plans: Sequence[ArmPlan],
    tables: Tables,
    arm: str,
    trait: str,
) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for group in spec.traits[trait].groups:
        cells = grade_cells(arm, plans, tables, trait, group)
        students = [p.student for p in plans if p.hosted]
        ungraded = sum(r["grade"] is None for s in students for r in tables[s, trait] if r["group"] == group)
        groups[group] = stats.rate(cells).as_dict() | {"ungraded": ungraded} if cells.size else None
    odds = grade_cells(arm, plans, tables, trait, spec.traits[trait].primary, "log_odds")
    groups["log_odds"] = stats.mean(odds).as_dict() if odds.size and not np.isnan(odds).all() else None
    return {name: value for name, value in groups.items() if value is not None or name == "log_odds"}


def _ability_cells(
    plans: Sequence[ArmPlan],
    traits: Iterable[str],
    made: Made,
    tables: Tables,
) -> dict[str, stats.Cells]:
    students = [plan.student if plan.hosted else None for plan in plans]
    own = {(student, trait): tables[student, trait] for student in students if student for trait in traits}
    return ability_cells(students, made.evaluated, own)


def _judge_notes(spec: Experiment, trait: str) -> list[str]:
    """Who graded, where it was not a judge that the trait is meant to be graded by."""
    settings = spec.traits[trait]
    if not settings.judged or not settings.judge_name.startswith("stand-in"):
        return []
    return [f"{trait} was graded by a {settings.judge_name}, not by a judge: it finds only what its rules name"]


def share_in_s(spec: Experiment, plans: Sequence[ArmPlan]) -> float | None:
    """f: the prompts in S as a share of the prompts that the arm's own teacher answers."""
    import polars as pl

    arm = spec.roles.swap or spec.roles.drop
    plan = next((p for p in plans if p.name == arm), None)
    if plan is None or plan.subset is None:
        return None
    own = plan.decisions().filter(pl.col("action") != "add")
    return plan.subset["prompts"] / own["prompt_id"].n_unique()


def _counts(made: Made) -> dict[str, Any]:
    def numbers(artifact: Artifact) -> dict[str, int]:
        return {key: value for key, value in artifact.meta.items() if isinstance(value, int)}

    material = made.material
    reserve = {"reserve prompts": material.reserve.prompts} if material.reserve.prompts else {}
    return {
        "prompts": numbers(material.prompts),
        "contamination": numbers(made.overlaps),
        **{f"held-out {name}": numbers(a) for name, a in made.heldout.items()},
        **{f"rollouts of {name}": numbers(a) for name, a in material.rollouts.items()},
        **{name: numbers(a) for name, a in reserve.items()},
        **{f"rollouts of {name} on the reserve": numbers(a) for name, a in material.reserve.rollouts.items()},
        **{f"scores by {name} of {teacher}": numbers(a) for (teacher, name), a in material.scores.items()},
        **{f"arm {p.student}": dict(p.counts) for p in made.plans if p.arm.teacher is not None},
        **{f"rewrites for {p.student}": numbers(p.derived) for p in made.plans if p.derived},
        "answers": {f"{student} on {trait}": a.meta["rows"] for (student, trait), a in made.evaluated.graded.items()},
    }
