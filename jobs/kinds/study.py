"""What the kinds that train students share: a base, prompts, teachers, scorers, traits, and the machines for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from jobs.kinds.job import JobSpec
from serve.settings import ServingSettings
from sftfilter.config import did_you_mean
from sftfilter.errors import MachineError
from sftfilter.guards import Contamination
from sftfilter.models import BUILTIN
from sftfilter.prompts import PromptSource
from sftfilter.rollouts import Generation, Pool
from sftfilter.scorers import Scorer
from sftfilter.scoring import ScoringPool
from sftfilter.teachers import Teacher
from sftfilter.training import Execution, TrainingSettings
from sftfilter.traits import Trait


class Study(JobSpec):
    """Base of the kinds in which teachers answer prompts, students are trained on the answers and traits are measured."""

    aside: ClassVar[frozenset[str]] = JobSpec.aside | {"execution", "generation_pool", "scoring_pool", "serving"}

    base_model: Annotated[str, Field(description=f"'{BUILTIN}', a local folder, or a hub id")] = BUILTIN
    system_prompt: Annotated[str | None, Field(description="put before every conversation; keep it short")] = None
    prompts: PromptSource
    contamination: Annotated[Contamination, Field(description="training prompts that contain evaluation prompts")] = (
        Contamination()
    )
    teachers: dict[str, Teacher]
    generation: Generation = Generation()
    scorers: dict[str, Scorer] = Field(default={})
    traits: dict[str, Trait]
    seeds: list[int] = Field(default=[0], min_length=1)
    training: TrainingSettings = TrainingSettings()
    execution: Execution = Execution()
    generation_pool: Pool = Pool()
    scoring_pool: ScoringPool = ScoringPool()
    serving: ServingSettings = ServingSettings()

    @model_validator(mode="after")
    def _distinct_seeds(self) -> Study:
        if len(self.seeds) != len(set(self.seeds)):
            raise ValueError("seeds: a seed is listed twice")
        return self

    def check_fits(self, have: Mapping[str, float]) -> None:
        """Raise MachineError when there are too few CPUs or GPUs for the training workers."""
        need = {
            "CPU": self.execution.fewest_workers * self.execution.cpus_per_worker,
            "GPU": float(self.execution.fewest_workers if self.execution.use_gpu else 0),
        }
        for resource, amount in need.items():
            if amount > have.get(resource, 0):
                raise MachineError(
                    f"execution.workers: {self.execution.fewest_workers} workers need {amount:g} {resource}, this machine has "
                    f"{have.get(resource, 0):g}: lower execution.workers, or submit to a larger cluster"
                )


def check_known(what: str, where: str, name: str | None, known: Mapping[str, Any]) -> None:
    """Raise ValueError when a name refers to nothing."""
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or f"; there are: {', '.join(known)}"
        raise ValueError(f"{where}: no {what} '{name}'{hint}")
