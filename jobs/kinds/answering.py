"""What the kinds share in which teachers answer prompts: the teachers, a base, the prompts, and the machines for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from jobs.kinds.job import JobSpec
from sftfilter.config import Name
from sftfilter.errors import MachineError
from sftfilter.generation import Generation, Pool
from sftfilter.models import BUILTIN
from sftfilter.prompts import PromptSource
from sftfilter.teachers import Teacher
from sftfilter.training import Execution, TrainingSettings


class OneBase(JobSpec):
    """Base of the kinds with one base model and one set of prompts."""

    base_model: Annotated[str, Field(description=f"'{BUILTIN}', a local folder, or a hub id")] = BUILTIN
    prompts: PromptSource


class Teaching(JobSpec):
    """Base of the kinds that have teachers, whatever bases and prompts they have.

    Attributes:
        asks_in_training: whether the kind can ask checkpoints in between while training goes on.
    """

    aside: ClassVar[frozenset[str]] = JobSpec.aside | {"execution", "generation_pool"}
    asks_in_training: ClassVar[bool] = False

    system_prompt: Annotated[str | None, Field(description="put before every conversation; keep it short")] = None
    teachers: dict[Name, Teacher]
    generation: Generation = Generation()
    training: TrainingSettings = TrainingSettings()
    execution: Execution = Execution()
    generation_pool: Pool = Pool()

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if not self.asks_in_training:
            refuse_asking(self.training, self.execution)
        return self

    def check_fits(self, have: Mapping[str, float]) -> None:
        """Raise MachineError when there are too few CPUs or GPUs for the training workers."""
        check_workers(self.execution, have)


class Answering(Teaching, OneBase):
    """Base of the kinds in which teachers, some of them tuned from the base, answer prompts."""


def refuse_asking(training: TrainingSettings, execution: Execution) -> None:
    """Raise ValueError where checkpoints in between are to be asked while training goes on, which an experiment alone does."""
    if training.exports and training.exports.by_trait:
        raise ValueError(
            f"training.exports.metric: '{training.exports.metric}' can be told in an experiment only, which asks its "
            "students while it trains them; set it to 'loss'"
        )
    if execution.ask_exports:
        raise ValueError(
            "execution.ask_exports: an experiment alone asks its students while it trains them; leave it out"
        )


def check_workers(execution: Execution, have: Mapping[str, float]) -> None:
    """Raise MachineError when there are too few CPUs or GPUs for the training workers."""
    need = {
        "CPU": execution.fewest_workers * execution.cpus_per_worker,
        "GPU": float(execution.fewest_workers if execution.use_gpu else 0),
    }
    for resource, amount in need.items():
        if amount > have.get(resource, 0):
            raise MachineError(
                f"execution.workers: {execution.fewest_workers} workers need {amount:g} {resource}, this machine "
                f"has {have.get(resource, 0):g}: lower execution.workers, or submit to a larger cluster"
            )
