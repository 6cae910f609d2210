"""Job `sweep`, one stage a line: what points share is made once, and equal students of all of them are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.console import Stages
from jobs.experiment import Gathered, gather
from jobs.kinds.experiment import Experiment
from jobs.kinds.sweep import Sweep
from jobs.sweep_outcome import write_sweep
from jobs.sweep_points import Point, points_of
from jobs.sweep_students import Roster, ask_models, plan_point, train_models
from serve.host import check_port
from sftfilter.artifacts import Store
from sftfilter.config import stable_hash
from sftfilter.trials import trials_at_once

_DECIDED = {"selectors", "arms", "confirm", "roles", "gates", "seeds", "training"}
"""What an experiment says of the stages after scoring; where the rest is equal, so are prompts, rollouts and scores."""


def run_sweep(spec: Sweep, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Run every stage that is not there yet, on the Ray cluster that is connected; answers results.json."""
    work, store = root / spec.name, Store(root / "artifacts")
    check_port(spec.experiment.serving)
    at_once = trials_at_once(spec.experiment.execution, spec.concurrency)
    with stages.stage("points", f"settings of {', '.join(dict.fromkeys([*spec.space, *_listed(spec)]))}"):
        points = points_of(spec)
        for point in points:
            stages.console.print(f"  {point.label}", markup=False)
    found = _gather(points, store, work, stages)
    with stages.stage("decisions", f"{len(points)} points x {len(spec.experiment.arms)} arms x seeds"):
        roster = Roster(store)
        planned = [
            plan_point(point, gathered, roster, store, stages) for point, gathered in zip(points, found, strict=True)
        ]
        stages.say(roster.summary())
    with stages.stage("training", f"{len(roster.trials)} students, up to {at_once} at a time"):
        execution, trials = spec.experiment.execution, work / "trials"
        trained = train_models(roster, execution, spec.retries, store, trials, at_once, stages, spec.stop)
    with stages.stage("evaluation", "over HTTP, every student once"):
        evaluated = ask_models(planned, roster, trained, store, stages)
    with stages.stage("outcome", "rates, differences, adjusted p-values, report"):
        return write_sweep(spec, root, planned, trained, evaluated, stages, command)


def _listed(spec: Sweep) -> list[str]:
    return [field for settings in spec.points for field in settings]


def _gather(points: Sequence[Point], store: Store, work: Path, stages: Stages) -> list[Gathered]:
    """For each point what its decisions are made from; equal ones are looked up once."""
    known: dict[str, Gathered] = {}
    for point in points:
        key = _scored_alike(point.spec)
        if key not in known:
            known[key] = gather(point.spec, store, work, stages)
    return [known[_scored_alike(point.spec)] for point in points]


def _scored_alike(spec: Experiment) -> str:
    """Hash of what prompts, rollouts and scores follow from."""
    rest = spec.model_dump(mode="json", exclude=_DECIDED)
    return stable_hash([rest, spec.training.max_length, spec.scored, spec.backfilled_by])
