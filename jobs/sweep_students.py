"""Students of a sweep: equal ones of all points are one model, trained as one trial and asked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.markup import escape

from jobs.arms import ArmPlan, plan_arms
from jobs.console import Stages
from jobs.evaluating import Evaluated, evaluate_models
from jobs.experiment import Gathered
from jobs.kinds.experiment import Experiment
from jobs.rewrites import Rewriter
from jobs.students import hosted_checkpoint, training_run
from jobs.sweep_points import Point
from serve.settings import HostedModel
from sftfilter.artifacts import Store
from sftfilter.config import stable_hash
from sftfilter.stopping import LossAbove, NoProgress
from sftfilter.training_settings import Execution
from sftfilter.trials import Trained, Trial, train_trials


@dataclass(frozen=True)
class Planned:
    """A point with its arms decided.

    Attributes:
        models: student -> the model that it is, which students of other points and arms may be as well.
    """

    point: Point
    found: Gathered
    plans: Sequence[ArmPlan]
    models: Mapping[str, str]


class Roster:
    """Every distinct model of a sweep, under one name.

    Attributes:
        trials: students by name.
        untrained: base models by name.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.trials: dict[str, Trial] = {}
        self.untrained: dict[str, HostedModel] = {}
        self._asked = 0
        self._names: dict[str, str] = {}
        self._planned: dict[str, str] = {}

    def model_of(self, spec: Experiment, found: Gathered, plan: ArmPlan) -> str:
        """Name of the model that a plan comes to, which is added if it is new."""
        base = found.base
        if plan.plan is None:
            name = f"{plan.student}.{base.hash[:8]}"
            model = HostedModel(id=name, folder=base.folder, model_hash=base.hash, format_hash=base.chat.hash)
            self.untrained.setdefault(name, model)
            return name
        self._asked += 1
        sources = [a.key for a in [*found.material.sources, *([plan.derived] if plan.derived else [])]]
        training = spec.training_of(plan.name).model_dump(mode="json")
        planned = stable_hash([plan.plan.hash, plan.seed, training, base.hash, base.chat.hash, sources])
        if planned not in self._planned:  # the same plan has the same rows, so they need not be read again
            self._planned[planned] = self._add(spec, found, plan)
        return self._planned[planned]

    def _add(self, spec: Experiment, found: Gathered, plan: ArmPlan) -> str:
        base = found.base
        run = training_run(spec, base, plan, found.material.sources)
        trial = Trial(run, base.folder, base.hash, spec.system_prompt, base.chat.hash)
        key = trial.key(self.store)
        if key not in self._names:
            name = self._names[key] = f"{plan.student}.{key[:8]}"
            self.trials[name] = replace(trial, run=replace(run, name=name))
        return self._names[key]

    def summary(self) -> str:
        """How many students there are to train, and of how many that are asked for."""
        there = sum(self.store.find("student", trial.key(self.store)) is not None for trial in self.trials.values())
        return f"{self._asked} students are asked for, {len(self.trials)} of them distinct; {there} are there already"


def plan_point(point: Point, found: Gathered, roster: Roster, store: Store, stages: Stages) -> Planned:
    """A point's arms decided, and its students in the roster."""
    stages.console.print(f"  [bold]{escape(point.label)}[/]")
    rewriter = Rewriter(point.spec, found.base, found.teachers, store, stages)
    plans = plan_arms(point.spec, found.material, rewriter, store, stages)
    models = {plan.student: roster.model_of(point.spec, found, plan) for plan in plans if plan.hosted}
    return Planned(point, found, plans, models)


def train_models(
    roster: Roster,
    execution: Execution,
    retries: int,
    store: Store,
    work: Path,
    at_once: int,
    stages: Stages,
    stop: LossAbove | NoProgress | None = None,
) -> Trained:
    """Every student that is not there yet, each as a trial; `stop` gives some of them up."""
    steps = sum(len(trial.run.plan.steps) for trial in roster.trials.values())
    with stages.bar(steps, "students") as bar:
        trained = train_trials(
            roster.trials,
            store=store,
            execution=execution,
            storage=work,
            at_once=at_once,
            retries=retries,
            on_event=bar.training,
            stop=stop,
        )
    for name, artifact in sorted(trained.students.items()):
        stages.note(artifact, name)
    for name, why in trained.failed.items():
        stages.say(f"{name} could not be trained: {why}")
    for name, why in trained.stopped.items():
        stages.say(f"{name} was {why}")
    return trained


def ask_models(
    planned: Sequence[Planned], roster: Roster, trained: Trained, store: Store, stages: Stages
) -> list[Evaluated]:
    """For each point what was found out of its models.

    Points that share the base and the held-out prompts share one endpoint; they differ only where those are swept.
    """
    groups: dict[str, tuple[Planned, dict[str, HostedModel]]] = {}
    for one in planned:
        _, models = groups.setdefault(_asked_alike(one), (one, {}))
        for name in one.models.values():
            if name in roster.untrained:
                models[name] = roster.untrained[name]
            elif name in trained.students:
                models[name] = hosted_checkpoint(name, trained.students[name])
    found = {
        key: evaluate_models(one.point.spec, one.found.base, list(models.values()), one.found.heldout, store, stages)
        for key, (one, models) in groups.items()
    }
    return [found[_asked_alike(one)] for one in planned]


def _asked_alike(one: Planned) -> str:
    prompts = [artifact.key for artifact in one.found.heldout.values()]
    return stable_hash([one.found.base.hash, one.found.base.chat.hash, prompts])
