"""Job kind `train`: students of training sets that exist."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from jobs.kinds.answering import check_workers, refuse_asking
from jobs.kinds.job import JobSpec
from sftfilter.config import Name
from sftfilter.models import BUILTIN
from sftfilter.rollout_file import RolloutFile
from sftfilter.training import Execution, TrainingSettings

if TYPE_CHECKING:
    from jobs.console import Stages


class Train(JobSpec):
    """Train a student on each training set and seed. Nothing is scored, nothing is measured.

    A training set is what `sftfilter decide` exports, or any file of conversations that end with the answer to learn.
    """

    aside: ClassVar[frozenset[str]] = JobSpec.aside | {"execution"}

    kind: Literal["train"]
    base_model: Annotated[str, Field(description=f"'{BUILTIN}', a local folder, or a hub id")] = BUILTIN
    system_prompt: Annotated[str | None, Field(description="put before every conversation; keep it short")] = None
    students: Annotated[
        dict[Name, RolloutFile], Field(min_length=1, description="student -> the conversations it is trained on")
    ]
    seeds: list[int] = Field(default=[0], min_length=1)
    training: TrainingSettings = TrainingSettings()
    execution: Execution = Execution()

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(seeds) != len(set(seeds)):
            raise ValueError("a seed is listed twice")
        return seeds

    @model_validator(mode="after")
    def _asks(self) -> Train:
        refuse_asking(self.training, self.execution)
        return self

    def summary(self) -> str:
        """Students."""
        return f"{len(self.students) * len(self.seeds)} students to train"

    def check_fits(self, have: Mapping[str, float]) -> None:
        """Raise MachineError when there are too few CPUs or GPUs for the training workers."""
        check_workers(self.execution, have)

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Checkpoints; answers train.json."""
        from jobs.train import run_train

        return run_train(self, root, stages, command)
