"""What an arm does between two steps: it exports, saves a checkpoint, or stops."""

from __future__ import annotations

import time
from pathlib import Path

import ray.train
import torch.distributed as dist
from ray.train import CheckpointConsistencyMode

from sftfilter import progress, resume
from sftfilter.rank_zero import agree_on
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
    ) -> None:
        self.key, self.name, self.steps, self.settings = key, name, steps, settings
        self.exports, self.asks, self.work = exports, asks, work
        self._saved = time.monotonic()

    def after(self, student: Student, losses: list[float]) -> None:
        """A step is done, and others follow.

        Args:
            losses: of all steps so far.

        Raises:
            Stopped: the training is to stop; this step is saved.
        """
        number, exports = len(losses), self.exports
        if number == self.steps:
            return
        exported = exports is not None and number % exports.wanted.every_steps == 0
        if exports and exported:
            with student.whole_weights():
                if dist.get_rank() == 0:
                    exports.start(student.model, number, losses)
        asked = request_rates(self.key, self.name, number) if exported and self.asks else None
        due, stop = agree_on([self._is_due(student, number), wished(self.work)], student.device)
        if asked or due or stop:
            if exports:
                exports.finish()  # what a checkpoint is past is not exported again
            stage = student.execution.zero_stage
            state = resume.ArmState(self.key, number, dist.get_world_size(), stage, losses)
            resume.save(student, self.settings, state, {"arm": self.name, "step": number, "loss": losses[-1]}, asked)
            self._saved = time.monotonic()
        if stop:
            self._tell_saved(number)
            raise Stopped

    def _is_due(self, student: Student, step: int) -> bool:
        """Whether a checkpoint is to be written; rank 0's clock decides, since clocks differ."""
        every_steps, every_s = student.execution.checkpoint_every_steps, student.execution.checkpoint_every_s
        if every_steps and step % every_steps == 0:
            return True
        return every_s is not None and time.monotonic() - self._saved >= every_s

    def _tell_saved(self, step: int) -> None:
        """Once the checkpoint is where the next run finds it."""
        if dist.get_rank() == 0:
            ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)
            progress.append(self.work / "progress.jsonl", {"stopped": self.name, "at": step})
