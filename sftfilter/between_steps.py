"""What an arm does between two steps: it exports, saves a checkpoint, or stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import ray.train
import torch.distributed as dist
from ray.train import CheckpointConsistencyMode

from sftfilter import progress, resume
from sftfilter.rank_zero import agree, agree_on, wait_until
from sftfilter.step_asking import request_rates
from sftfilter.step_exports import StepExports
from sftfilter.student import Student
from sftfilter.train_stop import Stopped, wished
from sftfilter.training_settings import TrainingSettings


class BetweenSteps:
    """One arm's, on every worker.

    Args:
        key: of the student.
        name: of the arm.
        steps: of the whole arm.
        exports: where checkpoints in between are wanted.
        asks: whether each of them is asked for its traits.
        work: the run's folder of files between driver and workers.
        beat: called while waiting for exports.
    """

    def __init__(
        self,
        key: str,
        name: str,
        steps: int,
        settings: TrainingSettings,
        exports: StepExports | None,
        asks: bool,
        work: Path,
        beat: Callable[[], None],
    ) -> None:
        self.key, self.name, self.steps, self.settings = key, name, steps, settings
        self.exports, self.asks, self.work, self.beat = exports, asks, work, beat
        self._saved_at, self._saved_step = time.monotonic(), 0

    def resumed(self, student: Student, losses: list[float]) -> None:
        """The arm goes on from a checkpoint; the export of that very step may have been cut off."""
        self._saved_step = len(losses)
        if self._is_exported(len(losses)) and not agree(bool(self.exports and self.exports.is_whole(len(losses)))):
            self._export(student, losses)

    def after(self, student: Student, losses: list[float]) -> None:
        """A step is done.

        Args:
            losses: of all steps so far.

        Raises:
            Stopped: the training is to stop; this step is saved.
        """
        number, exports, device = len(losses), self.exports, student.device
        if self._is_exported(number) or (exports and number == self.steps):
            self._settle(student, losses)
        if number == self.steps:
            return
        if self._is_exported(number):
            self._export(student, losses)
        due, stop, writing, written = agree_on(self._asked_of_rank_zero(student, number), device)
        if stop or written:
            self._settle(student, losses)
        if (stop or (due and not writing)) and self._saved_step != number:  # what it is past is not exported again
            self._save(student, losses)
        if stop:
            self._tell_saved(number)
            raise Stopped

    def _asked_of_rank_zero(self, student: Student, number: int) -> list[bool]:
        """Whether a checkpoint is due, a stop is wished, an export is being written or has been; only rank 0 looks."""
        if dist.get_rank():
            return [False] * 4
        exports = self.exports
        return [
            self._is_due(student, number),
            wished(self.work),
            bool(exports and exports.writing),
            bool(exports and exports.written),
        ]

    def _is_exported(self, number: int) -> bool:
        return self.exports is not None and 0 < number < self.steps and number % self.exports.wanted.every_steps == 0

    def _export(self, student: Student, losses: list[float]) -> None:
        weights = student.weights(kept=True)
        if self.exports and dist.get_rank() == 0:
            self.exports.start(student.model, weights, len(losses), losses)

    def _settle(self, student: Student, losses: list[float]) -> None:
        """Wait until the last export is written, and have it asked if that is still to be done.

        Ray Train asks beside the training, and only what comes with a checkpoint.
        """
        exports = self.exports
        if exports is None:
            return
        wait_until(lambda: not exports.writing, student.device, self.beat)
        (written,) = agree_on([exports.finish()], student.device)
        if written and self.asks:
            self._save(student, losses, written)

    def _save(self, student: Student, losses: list[float], ask: int | None = None) -> None:
        """Write a checkpoint.

        Args:
            ask: step whose export is asked.
        """
        number, stage = len(losses), student.execution.zero_stage
        state = resume.ArmState(self.key, number, dist.get_world_size(), stage, losses)
        asked = request_rates(self.key, self.name, ask) if ask else None
        resume.save(student, self.settings, state, {"arm": self.name, "step": number, "loss": losses[-1]}, asked)
        self._saved_at, self._saved_step = time.monotonic(), number

    def _is_due(self, student: Student, step: int) -> bool:
        """Whether a checkpoint is to be written; rank 0's clock decides, since clocks differ."""
        every_steps, every_s = student.execution.checkpoint_every_steps, student.execution.checkpoint_every_s
        if every_steps and step // every_steps > self._saved_step // every_steps:
            return True
        return every_s is not None and time.monotonic() - self._saved_at >= every_s

    def _tell_saved(self, step: int) -> None:
        """Once the checkpoint is where the next run finds it."""
        if dist.get_rank() == 0:
            ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)
            progress.append(self.work / "progress.jsonl", {"stopped": self.name, "at": step})
