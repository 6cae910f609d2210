"""Many students as trials of Ray Tune, each trained by Ray Train as any student is: side by side, tried again, reported.

A trial is one student that the store lacks. So a sweep that was killed goes on by running it again, and what Tune itself
keeps of a run is thrown away.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DivergedError, SftfilterError
from sftfilter.train_cluster import groups_at_once
from sftfilter.train_failures import reason, refusal
from sftfilter.training import STAGE, TrainingRun, student_key, train_all
from sftfilter.training_settings import Execution

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.tune import ResultGrid

EVENTS = "events.jsonl"
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
    """

    students: Mapping[str, Artifact]
    failed: Mapping[str, str]


def trials_at_once(execution: Execution, wanted: int | None) -> int:
    """How many trials may run side by side, so that each always gets all of its workers.

    Raises:
        MachineError: the connected cluster can never hold the workers of one.
    """
    room = groups_at_once(execution)
    return room if wanted is None else min(room, wanted)


def train_trials(
    trials: Mapping[str, Trial],
    *,
    store: Store,
    execution: Execution,
    storage: Path,
    at_once: int,
    retries: int,
    on_event: Callable[[Mapping[str, Any]], None],
) -> Trained:
    """Train what the store lacks. A trial that fails is tried again; one that fails for good does not end the others.

    Args:
        trials: by the names of their runs, all different students.
        storage: folder that all nodes share, for checkpoints within a student and for progress.
        at_once: as `trials_at_once` says.
        on_event: see `train_all`; events of several students come mixed.
    """
    keys = {name: trial.key(store) for name, trial in trials.items()}
    before = {name: store.find(STAGE, key) for name, key in keys.items()}
    missing = {name: trial for name, trial in trials.items() if before[name] is None}
    failed = _run(missing, store, execution, storage, at_once, retries, on_event) if missing else {}
    students = {name: artifact for name, artifact in before.items() if artifact}
    for name in missing:
        made = store.find(STAGE, keys[name])
        if made:
            students[name] = Artifact(STAGE, made.key, made.path, made.meta, reused=False)
            shutil.rmtree(storage / name / "training", ignore_errors=True)  # its curves stay
            (storage / name / EVENTS).unlink(missing_ok=True)
        else:
            failed.setdefault(name, "its trial ended without an error but left no checkpoint")
    return Trained(students, {name: why for name, why in failed.items() if name not in students})


def _run(
    missing: Mapping[str, Trial],
    store: Store,
    execution: Execution,
    storage: Path,
    at_once: int,
    retries: int,
    on_event: Callable[[Mapping[str, Any]], None],
) -> dict[str, str]:
    """Every trial; answers the reasons of those that failed."""
    import ray
    from ray import tune

    from sftfilter.trial_watch import TrialWatch

    storage.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(storage / "tune", ignore_errors=True)
    for name in missing:
        (storage / name / EVENTS).unlink(missing_ok=True)
    # Rows of all students together may be large: each trial fetches its own.
    stored = {name: ray.put(trial) for name, trial in missing.items()}
    given = {"trials": stored, "store": str(store.root), "execution": execution, "storage": str(storage)}
    # A CPU for each trial could be the very one that its workers wait for. Tune wants some resource: one byte it is.
    resources = tune.PlacementGroupFactory([{"memory": 1}])
    # Tune prints its banners to standard output whatever the verbosity; our own console is standard error.
    with _environment(), redirect_stdout(io.StringIO()):
        results = tune.Tuner(
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
                verbose=0,
            ),
        ).fit()
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
    config: Mapping[str, Any], *, trials: Mapping[str, ObjectRef[Trial]], store: str, execution: Execution, storage: str
) -> None:
    """What a trial does: train its student into the store."""
    import ray
    from ray import tune

    from sftfilter import progress

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
            on_event=partial(progress.append, place / EVENTS),
        )
    except DivergedError as error:
        tune.report({"refused": str(error)})  # it would diverge again, so Tune is not told to retry
    except SftfilterError as error:
        if refusal(place / "training") is None:
            raise
        tune.report({"refused": str(error)})  # as above


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
