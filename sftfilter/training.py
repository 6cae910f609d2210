"""Stage: train students. Several arms run back to back in one warm group of Ray Train workers.

Here is what the driver does: settings, what is missing, one TorchTrainer. `train_loop` holds what a worker does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter import run_log
from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import stable_hash
from sftfilter.deepspeed_config import backend
from sftfilter.disk import disk_errors
from sftfilter.errors import DivergedError, SpecError, TrainingError
from sftfilter.step_asking import AskStep, validation
from sftfilter.step_ranking import finish_ranked, is_set_aside
from sftfilter.train_cluster import RunStorage, check_can_ever_run, own_id, starts_tried, worker_resources
from sftfilter.train_failures import diverged, memory_knobs, readable, refusal
from sftfilter.train_stop import Stopped, allow, outlast, stoppable, wished
from sftfilter.train_watchdog import blame
from sftfilter.training_settings import Execution, Full, Lora, TrainingSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.training_plan import TrainingPlan

__all__ = ["STAGE", "Execution", "Full", "Lora", "TrainingRun", "TrainingSettings", "student_key", "train_all"]

STAGE = "student"
WORK = "training"
"""Folder of a run for Ray Train's bookkeeping, progress and whatever lies between driver and workers."""
EXPORTS = "exports"
STATES = "states"
VERSION = 4


@dataclass(frozen=True)
class TrainingRun:
    """One student to train.

    Attributes:
        rows: columns row_id, messages, completion.
        asked: hash of what checkpoints in between are ranked by, where it is a trait.
        labels: what is written on the model card and in the artifact (arm, intervention, parent, data hash).
    """

    name: str
    seed: int
    rows: pa.Table
    plan: TrainingPlan
    settings: TrainingSettings
    labels: Mapping[str, Any]
    asked: str | None = None


def train_all(
    runs: Sequence[TrainingRun],
    *,
    store: Store,
    base: str,
    base_hash: str,
    system_prompt: str | None,
    format_hash: str,
    execution: Execution,
    storage: Path,
    on_event: Callable[[Mapping[str, Any]], None],
    ask: AskStep | None = None,
) -> dict[str, Artifact]:
    """Train what is not in the store yet; answers an artifact for each run's name.

    Runs with equal rows, order, settings and seed are one training, whatever their names. An arm that was interrupted
    goes on from its last checkpoint.

    Args:
        storage: folder for Ray Train's own bookkeeping and the progress files.
        on_event: called with each progress event: a step (arm, step, steps, loss, tokens_per_s), the workers of a
            group (workers), an arm that goes on from a checkpoint (resumed, at) or was saved for that (stopped, at),
            something a person should know (note), the rates of a checkpoint in between (asked, at, rates), or that the
            group has nothing more to do (ended).
        ask: asks every checkpoint in between while training goes on.

    Raises:
        SpecError: checkpoints in between are to be ranked by a trait, and nobody asks for it.
        MachineError: the cluster can never have the workers, or those of a killed run are still at work.
        DivergedError: some diverged; the others are in the store.
        KeyboardInterrupt: this process was interrupted; the arm in progress is saved at its last step.
        Stopped: as above, where this is not the main thread.
        TrainingError: a worker failed; the message carries its reason.
    """
    _check_ranked(runs, ask)
    outlast(storage / WORK)
    keys = {run.name: student_key(run, store, base_hash, format_hash) for run in runs}
    before = {name: store.find(STAGE, key) for name, key in keys.items()}
    missing: dict[str, TrainingRun] = {}
    for run in runs:
        if before[run.name] is None:
            missing.setdefault(keys[run.name], run)
    if missing:
        config = {
            "store": str(store.root),
            "base": base,
            "base_hash": base_hash,
            "system_prompt": system_prompt,
            "format_hash": format_hash,
            "execution": execution.model_dump(),
            "asks": ask is not None,
            "log": run_log.told(),
        }
        place = RunStorage(execution.checkpoints or str(storage / WORK), _place_name(storage, store, execution))
        _train_missing(missing, config, execution, storage / WORK, place, on_event, ask)
    finished = {name: before[name] or _fresh(store.find(STAGE, key)) for name, key in keys.items()}
    absent = [name for name, artifact in finished.items() if artifact is None]
    given_up = {name: why for name in absent if (why := diverged(storage / WORK, keys[name]))}
    lost = [name for name in absent if name not in given_up]
    if lost:
        raise TrainingError(f"training ended without an error but left no checkpoint for {', '.join(lost)}; run again")
    if given_up:
        raise DivergedError("; ".join(dict.fromkeys(given_up.values())), given_up)
    return {name: artifact for name, artifact in finished.items() if artifact is not None}


def _train_missing(
    missing: Mapping[str, TrainingRun],
    config: dict[str, Any],
    execution: Execution,
    work: Path,
    place: RunStorage,
    on_event: Callable[[Mapping[str, Any]], None],
    ask: AskStep | None,
) -> None:
    """By their keys, in one worker group; what it leaves beside the students is cleared away."""
    check_can_ever_run(execution)
    _clear_all_but(work, {place.name, EXPORTS})
    place.tidy(on_event)
    allow(work)
    with disk_errors(work):
        jobs = [_write_job(work, key, run) for key, run in sorted(missing.items(), key=lambda item: item[1].name)]
    _fit(config | {"jobs": jobs, "work": str(work)}, execution, work, place, on_event, ask)
    for key, run in missing.items():  # by now Ray Train has had every checkpoint asked
        exports = work / EXPORTS / key
        if run.settings.exports and is_set_aside(exports):
            say = partial(_note, on_event, run.name)
            finish_ranked(exports, run.settings.exports, Store(config["store"]), STAGE, key, say)
    if wished(work) and not all(_is_over(Store(config["store"]), work, key) for key in missing):
        raise Stopped  # what the workers have saved is for the next run
    place.clear()
    for folder in (EXPORTS, STATES):
        shutil.rmtree(work / folder, ignore_errors=True)


def _is_over(store: Store, work: Path, key: str) -> bool:
    return store.find(STAGE, key) is not None or diverged(work, key) is not None


def _note(on_event: Callable[[Mapping[str, Any]], None], name: str, text: str) -> None:
    on_event({"note": f"{name}: {text}"})


def _fit(
    config: dict[str, Any],
    execution: Execution,
    work: Path,
    place: RunStorage,
    on_event: Callable[[Mapping[str, Any]], None],
    ask: AskStep | None,
) -> None:
    """One TorchTrainer for every job."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from sftfilter.progress import follow
    from sftfilter.train_watch import Restarts

    progress = work / "progress.jsonl"
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend=backend(execution), timeout_s=execution.collective_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=execution.workers,
            use_gpu=execution.use_gpu,
            resources_per_worker=worker_resources(execution),
        ),
        run_config=RunConfig(
            name=place.name,
            storage_path=place.root,
            storage_filesystem=place.filesystem,
            failure_config=FailureConfig(
                max_failures=execution.max_failures, controller_failure_limit=starts_tried(execution)
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[Restarts(str(progress))],
        ),
        validation_config=validation(ask, work / EXPORTS, progress) if ask else None,
    )
    last: dict[str, Any] = {}

    def remember(event: Mapping[str, Any]) -> None:
        last.update(event)
        on_event(event)

    error: Exception | None = None
    with follow(progress, remember):
        try:
            stoppable(trainer.fit, work)
        except Exception as failed:
            error = failed
    refused = refusal(work)
    if refused:
        raise refused from error
    if error:
        workers = len(last.get("workers", ())) or execution.most_workers
        raise readable(error, workers, last, memory_knobs(execution), blame(work, workers), work) from error


def _check_ranked(runs: Sequence[TrainingRun], ask: AskStep | None) -> None:
    for run in runs:
        exports = run.settings.exports
        if exports and exports.by_trait and ask is None:
            raise SpecError(
                f"{run.name}: training.exports.metric is '{exports.metric}', but no trait is measured while this is "
                "trained; set it to 'loss'"
            )


def _train_on_worker(config: dict[str, Any]) -> None:
    from sftfilter.train_loop import train_worker  # DeepSpeed is imported on workers only

    train_worker(config)


def _fresh(artifact: Artifact | None) -> Artifact | None:
    return replace(artifact, reused=False) if artifact else None


def _place_name(storage: Path, store: Store, execution: Execution) -> str:
    """Tells experiments apart that keep their checkpoints in one bucket, also those of clusters whose paths are equal."""
    paths = [str(storage.resolve()), str(store.root)]
    return f"train-{storage.name}-{stable_hash([*paths, own_id(storage)] if execution.checkpoints else paths, 8)}"


def _clear_all_but(work: Path, kept: set[str]) -> None:
    """Remove what an earlier run left in the folder, checkpoints within an arm excepted."""
    work.mkdir(parents=True, exist_ok=True)
    for entry in work.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def student_key(run: TrainingRun, store: Store, base_hash: str, format_hash: str) -> str:
    """The key of a student's artifact: equal for runs that would give the same weights."""
    # The plan names rows by id only, so their texts are hashed beside it.
    inputs = {"base": base_hash, "format": format_hash, "plan": run.plan.hash, "rows": data_hash(run.rows)}
    asked = {"asked": run.asked} if run.asked else {}
    return store.key(
        STAGE, VERSION, {"training": run.settings.model_dump(mode="json"), "seed": run.seed}, inputs | asked
    )


def data_hash(rows: pa.Table) -> str:
    """Hash over the ids and texts of rows, whatever their order."""
    return stable_hash(sorted((r["row_id"], r["messages"], r["completion"]) for r in rows.to_pylist()))


def _write_job(work: Path, key: str, run: TrainingRun) -> dict[str, Any]:
    folder = work / key
    folder.mkdir(parents=True)
    write_table(folder, "rows", run.rows)
    (folder / "plan.json").write_text(json.dumps(run.plan.steps))
    return {
        "key": key,
        "name": run.name,
        "seed": run.seed,
        "folder": str(folder),
        "settings": run.settings.model_dump(mode="json"),
        "labels": dict(run.labels),
        "plan_hash": run.plan.hash,
        "data_hash": data_hash(run.rows),
    }
