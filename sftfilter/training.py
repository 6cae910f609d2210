"""Stage: train students. Several arms run back to back in one warm group of Ray Train workers.

Here is what the driver does: settings, what is missing, one TorchTrainer. `train_loop` holds what a worker does.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import Settings, stable_hash
from sftfilter.errors import SftfilterError, TrainingError

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.training_plan import TrainingPlan

STAGE = "student"
VERSION = 1


class Lora(Settings):
    """Low-rank adapters (Hu et al. 2021) on the named modules; the checkpoint holds them merged and apart."""

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(gt=0)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    targets: str | list[str] = "all-linear"


class Full(Settings):
    """Every weight is trained."""

    kind: Literal["full"] = "full"


class TrainingSettings(Settings):
    """How students are trained. What changes results is hashed; `execution` is where and how fast it runs."""

    method: Annotated[Lora | Full, Field(discriminator="kind")] = Lora()
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    warmup_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    epochs: Annotated[float, Field(gt=0)] = 2
    batch: Annotated[int, Field(gt=0, description="rows in an optimizer step, over all workers")] = 8
    max_length: Annotated[int, Field(gt=0, description="tokens a row may have; longer ones are refused")] = 2048
    precision: Literal["bf16", "fp32"] = "bf16"


class Execution(Settings):
    """Workers and memory. Students are the same whatever these are, within float error."""

    workers: Annotated[int, Field(gt=0)] = 2
    use_gpu: bool = False
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    zero_stage: Literal[0, 1, 2, 3] = 2
    micro_batch_tokens: Annotated[int, Field(gt=0, description="tokens packed into one forward pass")] = 4096
    gradient_checkpointing: bool = False
    max_failures: Annotated[int, Field(ge=0, description="worker crashes survived; finished arms are kept")] = 1


@dataclass(frozen=True)
class TrainingRun:
    """One student to train.

    Attributes:
        rows: columns row_id, messages, completion.
        labels: what is written on the model card and in the artifact (arm, intervention, parent, data hash).
    """

    name: str
    seed: int
    rows: pa.Table
    plan: TrainingPlan
    settings: TrainingSettings
    labels: Mapping[str, Any]


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
) -> dict[str, Artifact]:
    """Train what is not in the store yet; answers an artifact for each run's name.

    Runs with equal rows, order, settings and seed are one training, whatever their names.

    Args:
        storage: folder for Ray Train's own bookkeeping and the progress files.
        on_event: called with each progress event (see `train_loop.Progress`).

    Raises:
        TrainingError: a worker failed; the message carries its reason.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from sftfilter.progress import follow

    keys = {run.name: _key(run, store, base_hash, format_hash) for run in runs}
    before = {name: store.find(STAGE, key) for name, key in keys.items()}
    missing = {keys[run.name]: run for run in runs if before[run.name] is None}
    if missing:
        work = storage / "training"
        shutil.rmtree(work, ignore_errors=True)
        jobs = [_write_job(work, key, run) for key, run in sorted(missing.items(), key=lambda item: item[1].name)]
        progress = work / "progress.jsonl"
        trainer = TorchTrainer(
            _train_on_worker,
            train_loop_config={
                "store": str(store.root),
                "base": base,
                "base_hash": base_hash,
                "system_prompt": system_prompt,
                "format_hash": format_hash,
                "execution": execution.model_dump(),
                "jobs": jobs,
                "progress": str(progress),
            },
            torch_config=TorchConfig(backend="nccl" if execution.use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=execution.workers,
                use_gpu=execution.use_gpu,
                resources_per_worker={"CPU": execution.cpus_per_worker, "GPU": int(execution.use_gpu)},
            ),
            run_config=RunConfig(
                name="train", storage_path=str(work), failure_config=FailureConfig(max_failures=execution.max_failures)
            ),
        )
        with follow(progress, on_event), _own_interrupts():
            try:
                trainer.fit()
            except Exception as error:
                raise _readable(error) from error
    finished = {name: before[name] or _fresh(store.find(STAGE, key)) for name, key in keys.items()}
    lost = [name for name, artifact in finished.items() if artifact is None]
    if lost:
        raise TrainingError(f"training ended without an error but left no checkpoint for {', '.join(lost)}; run again")
    return {name: artifact for name, artifact in finished.items() if artifact is not None}


def _train_on_worker(config: dict[str, Any]) -> None:
    from sftfilter.train_loop import train_worker  # DeepSpeed is imported on workers only

    train_worker(config)


def _fresh(artifact: Artifact | None) -> Artifact | None:
    return replace(artifact, reused=False) if artifact else None


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Ray Train takes over Ctrl-C for good, and answers it with exit code 0; give it back, and say it was one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _key(run: TrainingRun, store: Store, base_hash: str, format_hash: str) -> str:
    # The plan names rows by id only, so their texts are hashed beside it.
    texts = sorted((r["row_id"], r["messages"], r["completion"]) for r in run.rows.to_pylist())
    inputs = {"base": base_hash, "format": format_hash, "plan": run.plan.hash, "rows": stable_hash(texts)}
    return store.key(STAGE, VERSION, {"training": run.settings.model_dump(mode="json"), "seed": run.seed}, inputs)


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
    }


def _readable(error: Exception) -> SftfilterError:
    """The worker's own reason, out of Ray Train's wrapping."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        cause = getattr(failure, "cause", None) or getattr(failure, "__cause__", None) or failure
        text = str(cause).strip().splitlines()
        if isinstance(cause, SftfilterError):
            return cause
        if text:
            reason = next((line for line in reversed(text) if line.strip()), text[-1])
            return TrainingError(f"a training worker failed: {reason}")
    return TrainingError(f"training failed: {error}")
