"""Many students as trials of Ray Tune, each trained by Ray Train as any student is: side by side, tried again, reported.

A trial is one student that the store lacks. So a sweep that was killed goes on by running it again, and what Tune itself
keeps of a run is thrown away.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter import run_log
from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DivergedError, SftfilterError
from sftfilter.progress import Tail
from sftfilter.stopping import LossAbove, NoProgress
from sftfilter.train_cluster import groups_at_once
from sftfilter.train_failures import reason, refusal
from sftfilter.train_stop import Stopped, save_and_stop
from sftfilter.training import STAGE, WORK, TrainingRun, student_key, train_all
from sftfilter.training_settings import Execution

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.tune import ResultGrid

EVENTS = "events.jsonl"
_EARLIER = "events-before.jsonl"
STOPPED = "stopped"
_STOPPED_VERSION = 1
_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the run, as in every other stage
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # training keeps its own curves
}


@dataclass(frozen=True)
class Trial:
    """A student to train, and from what."""

    run: TrainingRun
    base: str
    base_hash: str
    system_prompt: str | None
    format_hash: str

    def key(self, store: Store) -> str:
        """Of the student's artifact."""
        return student_key(self.run, store, self.base_hash, self.format_hash)


@dataclass(frozen=True)
class Trained:
    """What came of the trials, by the names of their runs.

    Attributes:
        failed: why a student could not be trained, after every retry.
        stopped: why and at which step the rule stopped a student. It is in neither of the others.
    """

    students: Mapping[str, Artifact]
    failed: Mapping[str, str]
    stopped: Mapping[str, str] = field(default_factory=dict)


def trials_at_once(execution: Execution, wanted: int | None) -> int:
    """How many trials may run side by side, so that each always gets all of its workers.

    Raises:
        MachineError: the connected cluster can never hold the workers of one.
    """
    return groups_at_once(execution, wanted)


def train_trials(
    trials: Mapping[str, Trial],
    *,
    store: Store,
    execution: Execution,
    storage: Path,
    at_once: int,
    retries: int,
    on_event: Callable[[Mapping[str, Any]], None],
    stop: LossAbove | NoProgress | None = None,
) -> Trained:
    """Train what the store lacks. A trial that fails is tried again; one that fails for good does not end the others.

    Args:
        trials: by the names of their runs, all different students.
        storage: folder that all nodes share, for checkpoints within a student and for progress.
        at_once: as `trials_at_once` says.
        on_event: see `train_all`; events of several students come mixed.
        stop: gives students up. What it says of one is kept in the store, so that a run that goes on asks it once.
    """
    keys = {name: trial.key(store) for name, trial in trials.items()}
    before = {name: store.find(STAGE, key) for name, key in keys.items()}
    rulings = Rulings(store, stop, storage)
    # A run that was killed may have trained until the rule applies, and died before that was written down.
    stopped = {name: why for name, key in keys.items() if (why := rulings.of(name, key, before[name]))}
    missing = {name: trial for name, trial in trials.items() if before[name] is None and name not in stopped}
    failed = _run(missing, store, execution, storage, at_once, retries, on_event, stop) if missing else {}
    students = {name: artifact for name, artifact in before.items() if artifact}
    for name in missing:
        made = store.find(STAGE, keys[name])
        if made:
            students[name] = Artifact(STAGE, made.key, made.path, made.meta, reused=False)
    stopped |= {name: why for name in missing if (why := rulings.of(name, keys[name], students.get(name)))}
    for name in missing:
        if name in stopped or name in students:
            shutil.rmtree(storage / name / "training", ignore_errors=True)  # its curves stay
            for file in (EVENTS, _EARLIER):
                (storage / name / file).unlink(missing_ok=True)
        else:
            failed.setdefault(name, "its trial ended without an error but left no checkpoint")
    failed = {name: why for name, why in failed.items() if name not in students and name not in stopped}
    return Trained({name: student for name, student in students.items() if name not in stopped}, failed, stopped)


def _run(
    missing: Mapping[str, Trial],
    store: Store,
    execution: Execution,
    storage: Path,
    at_once: int,
    retries: int,
    on_event: Callable[[Mapping[str, Any]], None],
    stop: LossAbove | NoProgress | None,
) -> dict[str, str]:
    """Every trial; answers the reasons of those that failed."""
    import ray
    from ray import tune

    from sftfilter.trial_stop import RuleStopper
    from sftfilter.trial_watch import TrialWatch

    storage.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(storage / "tune", ignore_errors=True)
    for name in missing:
        _set_aside(storage / name)
    # Rows of all students together may be large: each trial fetches its own.
    stored = {name: ray.put(trial) for name, trial in missing.items()}
    given: dict[str, Any] = {
        "trials": stored,
        "store": str(store.root),
        "execution": execution,
        "storage": str(storage),
    }
    given |= {"tell": stop is not None, "log": run_log.told()}
    # A CPU for each trial could be the very one that its workers wait for. Tune wants some resource: one byte it is.
    resources = tune.PlacementGroupFactory([{"memory": 1}])
    # Tune prints its banners to standard output whatever the verbosity; our own console is standard error.
    with _environment(), redirect_stdout(io.StringIO()):
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(train_one, **given), resources),
            param_space={"student": tune.grid_search(sorted(missing))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=at_once, trial_dirname_creator=lambda trial: str(trial.config["student"])
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(storage),
                failure_config=tune.FailureConfig(max_failures=retries),
                callbacks=[TrialWatch([storage / name / EVENTS for name in missing], on_event)],
                stop=RuleStopper(stop) if stop else None,
                verbose=0,
            ),
        )
        try:
            results = tuner.fit()
        except KeyboardInterrupt:
            save_and_stop([storage / name / WORK for name in missing])
            raise
    shutil.rmtree(storage / "tune", ignore_errors=True)
    return _failures(results)


def _failures(results: ResultGrid) -> dict[str, str]:
    found: dict[str, str] = {}
    for result in results:
        student = Path(result.path).name  # one that never started has no config to tell it by
        if result.error:
            found[student] = reason(result.error)[1]
        elif result.metrics and result.metrics.get("refused"):
            found[student] = result.metrics["refused"]
    return found


def train_one(
    config: Mapping[str, Any],
    *,
    trials: Mapping[str, ObjectRef[Trial]],
    store: str,
    execution: Execution,
    storage: str,
    tell: bool,
    log: run_log.Told | None,
) -> None:
    """What a trial does: train its student into the store. With `tell`, Tune hears of every step, so as to end it."""
    import ray
    from ray import tune

    from sftfilter import progress

    def on_event(event: Mapping[str, Any]) -> None:
        progress.append(place / EVENTS, event)
        if tell and "step" in event:
            tune.report({"step": event["step"], "loss": event["loss"]})

    run_log.join(log, "trial")
    trial = ray.get(trials[config["student"]])
    place = Path(storage) / config["student"]
    place.mkdir(parents=True, exist_ok=True)
    try:
        train_all(
            [trial.run],
            store=Store(store),
            base=trial.base,
            base_hash=trial.base_hash,
            system_prompt=trial.system_prompt,
            format_hash=trial.format_hash,
            execution=execution,
            storage=place,
            on_event=on_event,
        )
    except Stopped:
        pass  # it is saved, and the driver has left already
    except DivergedError as error:
        tune.report({"refused": str(error)})  # it would diverge again, so Tune is not told to retry
    except SftfilterError as error:
        if refusal(place / "training") is None:
            raise
        tune.report({"refused": str(error)})  # as above


class Rulings:
    """What a rule says of students, each kept as an artifact under the hashes of the student and of the rule."""

    def __init__(self, store: Store, rule: LossAbove | NoProgress | None, storage: Path) -> None:
        self.store, self.rule, self.storage = store, rule, storage

    def made(self, student: str) -> str | None:
        """Why a student, named by its key, was stopped, if that is known."""
        if self.rule is None:
            return None
        found = self.store.find(STOPPED, self._key(student))
        return found.meta["why"] if found else None

    def of(self, name: str, student: str, finished: Artifact | None) -> str | None:
        """Why a student is stopped, by all of its curve that there is; None if it is not."""
        known = self.made(student)
        if self.rule is None or known:
            return known
        curve = _whole_curve(finished) if finished else _curve(self.storage / name)
        why = self.rule.first_stop(curve)
        if why:
            self.store.commit(self.store.begin(STOPPED, self._key(student)), STOPPED, self._key(student), {"why": why})
        return why

    def _key(self, student: str) -> str:
        assert self.rule is not None
        return self.store.key(STOPPED, _STOPPED_VERSION, self.rule.model_dump(mode="json"), {STAGE: student})


def _whole_curve(student: Artifact) -> dict[int, float]:
    return dict(enumerate(json.loads((student.path / "losses.json").read_text()), 1))


def _curve(folder: Path) -> dict[int, float]:
    """Of a trial that did not finish: what it told in this run and in those before it."""
    events = [event for file in (_EARLIER, EVENTS) for event in Tail(folder / file).events()]
    return {event["step"]: event["loss"] for event in events if "step" in event}


def _set_aside(folder: Path) -> None:
    """Keep what a trial told in a run that was killed, and begin anew."""
    if (folder / EVENTS).exists():
        with open(folder / _EARLIER, "a") as earlier:
            earlier.write("".join(json.dumps(event) + "\n" for event in Tail(folder / EVENTS).events()))
        (folder / EVENTS).unlink()


@contextmanager
def _environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ |= _ENVIRONMENT
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
