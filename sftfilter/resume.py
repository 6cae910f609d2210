"""Checkpoints within an arm, as a worker writes and reads them: an arm goes on at its step, bit for bit.

A checkpoint holds DeepSpeed's shards (weights that are trained, optimizer, scheduler), each worker's random state, and
`state.json`. Ray Train copies the workers' parts to storage while training goes on, and names the checkpoint in its
snapshot once every part is there: a half-written one is never seen. Another number of workers goes through DeepSpeed's
universal layout.

The shards are pickles. They are read only from this run's own storage, and with torch's weights-only unpickler, which
makes tensors and plain values and calls nothing else. Nothing that is exported is a pickle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode
from safetensors.torch import load_file, save_file

from sftfilter.disk import disk_errors
from sftfilter.errors import TrainingError
from sftfilter.student import Student
from sftfilter.training_settings import Execution, Lora, TrainingSettings

if TYPE_CHECKING:
    from ray.train import ValidationTaskConfig

STATE = "state.json"
_SHARDS = "shards"


@dataclass(frozen=True)
class ArmState:
    """Where an arm is.

    Attributes:
        key: of the student that the arm makes, a hash over everything that decides its weights.
        step: optimizer steps done.
        workers: that wrote the checkpoint.
        losses: of the steps done, nats per supervised token.
    """

    key: str
    step: int
    workers: int
    zero_stage: int
    losses: list[float]


def save(
    student: Student,
    settings: TrainingSettings,
    state: ArmState,
    metrics: dict[str, Any],
    validation: ValidationTaskConfig | None = None,
) -> None:
    """Write a checkpoint and hand it to Ray Train, which copies it to storage while training goes on.

    Every worker calls this at the same step; DeepSpeed and Ray Train each wait for all of them.

    Args:
        validation: what Ray Train then runs beside the training.
    """
    with disk_errors(Path(tempfile.gettempdir())):
        folder = _write(student, settings, state)
    ray.train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(str(folder)),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
        validation=validation or False,
    )


def _write(student: Student, settings: TrainingSettings, state: ArmState) -> Path:
    """This worker's part of a checkpoint, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="sftfilter-checkpoint-"))
    (folder / _SHARDS).mkdir()
    student.engine.save_checkpoint(
        str(folder),
        tag=_SHARDS,
        save_latest=False,
        exclude_frozen_parameters=isinstance(settings.method, Lora),
    )
    for script in (folder / _SHARDS).glob("*.py"):  # DeepSpeed adds conversion scripts
        script.unlink()
    for script in folder.glob("*.py"):
        script.unlink()
    save_file(_random_state(), folder / f"random-{dist.get_rank()}.safetensors")
    if dist.get_rank() == 0:
        (folder / STATE).write_text(json.dumps(asdict(state)))
    return folder


class Found:
    """The last whole checkpoint of this run."""

    def __init__(self, checkpoint: Checkpoint, state: ArmState) -> None:
        self.checkpoint = checkpoint
        self.state = state

    def universal(self, name: str, execution: Execution) -> bool:
        """Whether the checkpoint has to be converted, since it was written by another number of workers.

        Raises:
            TrainingError: it was written under another ZeRO stage.
        """
        if self.state.zero_stage != execution.zero_stage:
            raise TrainingError(
                f"arm {name} has a checkpoint at step {self.state.step} that was written with "
                f"execution.zero_stage: {self.state.zero_stage}, and shards of one stage cannot be read in stage "
                f"{execution.zero_stage}: set it back to finish the arm, or delete {self.checkpoint.path} to train it "
                "from its beginning"
            )
        return self.state.workers != dist.get_world_size() and execution.zero_stage > 0

    def load(self, student: Student, universal: bool) -> None:
        """Put the checkpoint into a fresh student."""
        with self.checkpoint.as_directory() as folder, _tensors_only():
            if ray.train.get_context().get_local_rank() == 0:
                _check_whole(Path(folder), self.checkpoint.path)
            with _converted(Path(folder)) if universal else contextlib.nullcontext(Path(folder)) as source:
                loaded, _ = student.engine.load_checkpoint(str(source), tag=_SHARDS, load_module_strict=False)
                dist.barrier()
            if loaded is None:
                raise TrainingError(f"{self.checkpoint.path}: DeepSpeed finds no shards in it; delete it and run again")
            random = Path(folder) / f"random-{dist.get_rank()}.safetensors"
            if random.exists():  # a worker that joined has none; nothing random is left to do in these models
                _set_random_state(load_file(random))


def find(key: str) -> Found | None:
    """The last whole checkpoint, if it is one of the arm that makes `key`."""
    found = last()
    return found if found and found.state.key == key else None


def last() -> Found | None:
    """The last whole checkpoint, of whatever arm."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    assert checkpoint.filesystem is not None
    try:
        with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{STATE}") as stream:
            state = ArmState(**json.loads(stream.read()))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{checkpoint.path}: not a checkpoint of this version ({error}); delete it") from error
    return Found(checkpoint, state)


def _check_whole(folder: Path, name: str) -> None:
    """Compare every shard with the checksums that torch writes into it, and that it does not look at when it loads.

    Raises:
        TrainingError: one is damaged.
    """
    for shard in sorted((folder / _SHARDS).rglob("*.pt")):
        try:
            with zipfile.ZipFile(shard) as packed:
                bad = packed.testzip()
        except zipfile.BadZipFile as error:
            bad = str(error)
        if bad:
            raise TrainingError(
                f"{name}: {shard.name} is damaged ({bad}): delete the checkpoint to train its arm from the beginning"
            )


@contextlib.contextmanager
def _converted(folder: Path) -> Iterator[Path]:
    """The shards in DeepSpeed's universal layout, made once on each node."""
    agreed = [tempfile.mktemp(prefix="sftfilter-universal-") if dist.get_rank() == 0 else None]  # noqa: S306
    dist.broadcast_object_list(agreed, src=0)
    assert agreed[0] is not None
    target = Path(agreed[0])
    first = ray.train.get_context().get_local_rank() == 0
    try:
        if first:
            from deepspeed.checkpoint import ds_to_universal

            (target / _SHARDS).mkdir(parents=True, mode=0o700)
            wishes = argparse.Namespace(
                input_folder=str(folder / _SHARDS),
                output_folder=str(target / _SHARDS),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
            with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                ds_to_universal.main(wishes)
        dist.barrier()
        yield target
    finally:
        if first:
            shutil.rmtree(target, ignore_errors=True)


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Let torch unpickle tensors, plain values and DeepSpeed's few own types, whatever its caller asks for."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals([fragment_address, ZeroStageEnum, LossScaler, DynamicLossScaler]):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
