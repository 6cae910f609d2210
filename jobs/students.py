"""Students: trained in one warm worker group, hosted by one Serve app, asked over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jobs.arms import ArmPlan
from jobs.console import Stages
from jobs.curves import hosted_steps
from jobs.evaluating import Evaluated, evaluate_models
from jobs.kinds.experiment import Experiment
from jobs.kinds.study import Study
from jobs.kinds.train import Train
from jobs.planning import rows_of
from jobs.step_asker import StepAsker, ranked_by, step_asker
from jobs.tutoring import Base
from serve.settings import HostedModel
from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DivergedError
from sftfilter.training import TrainingRun, train_all
from sftfilter.training_settings import Lora


def train_students(
    spec: Experiment,
    base: Base,
    plans: Sequence[ArmPlan],
    sources: Sequence[Artifact],
    heldout: Mapping[str, Artifact],
    store: Store,
    work: Path,
    stages: Stages,
) -> tuple[dict[str, Artifact], list[ArmPlan]]:
    """Student -> checkpoint, without the untrained base and arms that have no row left; and the plans, those whose
    training diverged without a student.

    Args:
        sources: artifacts with the rows that the plans name.
        heldout: prompts of each trait, for checkpoints in between that are asked while training goes on.
    """
    asker = step_asker(spec, base, heldout, store)
    runs = [training_run(spec, base, plan, sources, asker) for plan in plans if plan.plan is not None]
    try:
        return train_runs(spec, base, runs, store, work, stages, asker), list(plans)
    except DivergedError as error:
        for student, why in error.arms.items():
            stages.say(f"{student} is given up: {why}")
        given_up = error.arms
    there = [run for run in runs if run.name not in given_up]
    left = [replace(p, plan=None, empty=given_up[p.student]) if p.student in given_up else p for p in plans]
    return train_runs(spec, base, there, store, work, stages, asker), left


def train_runs(
    spec: Study | Train,
    base: Base,
    runs: Sequence[TrainingRun],
    store: Store,
    work: Path,
    stages: Stages,
    asker: StepAsker | None = None,
) -> dict[str, Artifact]:
    """Name of a run -> its checkpoint."""
    with stages.bar(sum(len(run.plan.steps) for run in runs), "students") as bar:
        students = train_all(
            runs,
            store=store,
            base=base.folder,
            base_hash=base.hash,
            system_prompt=spec.system_prompt,
            format_hash=base.chat.hash,
            execution=spec.execution,
            storage=work,
            on_event=bar.training,
            ask=asker,
        )
    for name, artifact in students.items():
        stages.note(artifact, name)
    return students


def training_run(
    spec: Experiment, base: Base, plan: ArmPlan, sources: Sequence[Artifact], asker: StepAsker | None = None
) -> TrainingRun:
    """What an arm's student is trained on with one seed; the plan must have rows."""
    assert plan.plan is not None
    intervention = plan.arm.intervention
    labels = {
        "arm": plan.name,
        "teacher": plan.arm.teacher,
        "intervention": intervention.model_dump() if intervention else None,
        "parent_model": base.name,
        "spec_hash": spec.spec_hash,
    }
    rows = rows_of(plan.plan, [*sources, *([plan.derived] if plan.derived else [])])
    settings = spec.training_of(plan.name)
    screened = isinstance(settings.method, Lora) and settings.method.top_layers is not None
    labels |= {"screened": screened}
    return TrainingRun(plan.student, plan.seed, rows, plan.plan, settings, labels, ranked_by(settings, asker))


def evaluate_all(
    spec: Experiment,
    base: Base,
    plans: Sequence[ArmPlan],
    students: Mapping[str, Artifact],
    teachers: Mapping[str, Artifact],
    heldout: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> Evaluated:
    """Graded results of every student. The endpoint is started only if somebody has yet to answer."""
    return evaluate_models(spec, base, hosted_models(base, plans, students, teachers), heldout, store, stages)


def hosted_models(
    base: Base, plans: Sequence[ArmPlan], students: Mapping[str, Artifact], teachers: Mapping[str, Artifact]
) -> list[HostedModel]:
    """The untrained base, the tuned teachers, every student and its checkpoints in between, under their ids."""
    models = [
        HostedModel(id=plan.student, folder=base.folder, model_hash=base.hash, format_hash=base.chat.hash)
        for plan in plans
        if plan.arm.teacher is None
    ]
    trained = {f"teacher-{name}": artifact for name, artifact in teachers.items()} | dict(students)
    models += [hosted_checkpoint(name, artifact) for name, artifact in trained.items()]
    return models + [step for name, artifact in students.items() for step in hosted_steps(name, artifact)]


def hosted_checkpoint(name: str, checkpoint: Artifact) -> HostedModel:
    """A trained model under an id."""
    return HostedModel(
        id=name,
        folder=str(checkpoint.path),
        model_hash=checkpoint.meta["model_hash"],
        format_hash=checkpoint.meta["format_hash"],
    )
