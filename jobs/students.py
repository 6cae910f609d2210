"""Students: trained in one warm worker group, hosted by one Serve app, asked over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.arms import ArmPlan
from jobs.console import Stages
from jobs.curves import hosted_steps
from jobs.kinds.experiment import Experiment
from jobs.kinds.study import Study
from jobs.planning import rows_of
from jobs.tutoring import Base
from serve.settings import HostedModel
from sftfilter.artifacts import Artifact, Store
from sftfilter.evaluation import Asked, answers_key, ask, grade
from sftfilter.training import TrainingRun, train_all
from sftfilter.training_settings import Lora


def train_students(
    spec: Experiment,
    base: Base,
    plans: Sequence[ArmPlan],
    sources: Sequence[Artifact],
    store: Store,
    work: Path,
    stages: Stages,
) -> dict[str, Artifact]:
    """Student -> checkpoint, without the untrained base and arms that have no row left.

    Args:
        sources: artifacts with the rows that the plans name.
    """
    runs = [_run(spec, base, plan, sources) for plan in plans if plan.plan is not None]
    return train_runs(spec, base, runs, store, work, stages)


def train_runs(
    spec: Study, base: Base, runs: Sequence[TrainingRun], store: Store, work: Path, stages: Stages
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
        )
    for name, artifact in students.items():
        stages.note(artifact, name)
    return students


def _run(spec: Experiment, base: Base, plan: ArmPlan, sources: Sequence[Artifact]) -> TrainingRun:
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
    return TrainingRun(plan.student, plan.seed, rows, plan.plan, settings, labels | {"screened": screened})


def evaluate_all(
    spec: Experiment,
    base: Base,
    plans: Sequence[ArmPlan],
    students: Mapping[str, Artifact],
    teachers: Mapping[str, Artifact],
    heldout: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> dict[tuple[str, str], Artifact]:
    """(student, trait) -> graded results. The endpoint is started only if somebody has yet to answer."""
    return evaluate_models(spec, base, hosted_models(base, plans, students, teachers), heldout, store, stages)


def evaluate_models(
    spec: Study,
    base: Base,
    hosted: Sequence[HostedModel],
    heldout: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> dict[tuple[str, str], Artifact]:
    """(model, trait) -> graded results. The endpoint is started only if somebody has yet to answer."""
    keys = {
        (model.id, trait): answers_key(
            trait, spec.traits[trait], heldout[trait], model.model_hash, base.chat.hash, spec.serving.dtype, store
        )
        for model in hosted
        for trait in spec.traits
    }
    missing = [pair for pair, key in keys.items() if store.find("answers", key) is None]
    if missing:
        _ask_missing(spec, base, hosted, keys, missing, heldout, store, stages)
    graded: dict[tuple[str, str], Artifact] = {}
    for (model, trait), key in keys.items():
        answers = store.find("answers", key)
        assert answers is not None
        graded[model, trait] = grade(model, trait, spec.traits[trait], answers, store=store)
    return graded


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


def _ask_missing(
    spec: Study,
    base: Base,
    hosted: Sequence[HostedModel],
    keys: Mapping[tuple[str, str], str],
    missing: Sequence[tuple[str, str]],
    heldout: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> None:
    from serve.host import host

    hashes = {model.id: model.model_hash for model in hosted}
    total = sum(len(_wanted(spec, trait, heldout)) * spec.traits[trait].samples for _, trait in missing)
    api_key = secrets.token_urlsafe(32)
    with (
        host(hosted, spec.serving, base.folder, spec.system_prompt, api_key, spec.name) as endpoint,
        stages.bar(total, "answers") as bar,
    ):
        stages.console.print(f"  {len(hosted)} models at {endpoint.base_url}")
        for model, trait in missing:
            asked = Asked(endpoint.base_url, api_key, model, hashes[model])
            settings = spec.traits[trait]
            answers = ask(
                asked, keys[model, trait], settings, heldout[trait], store=store, chat=base.chat, on_answer=bar.advance
            )
            stages.note(answers, f"{model} on {trait}")


def _wanted(spec: Study, trait: str, heldout: Mapping[str, Artifact]) -> list[str]:
    kinds = set(spec.traits[trait].groups.values())
    return [kind for kind in heldout[trait].table("prompts")["kind"].to_pylist() if kind in kinds]
