"""Job kind `experiment`: from prompts to a verdict, a student for every arm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.kinds.job import JobSpec
from serve.settings import ServingSettings
from sftfilter.config import Settings, did_you_mean
from sftfilter.errors import MachineError
from sftfilter.estimands import Roles
from sftfilter.interventions import DropRow, Intervention, Swap
from sftfilter.models import BUILTIN
from sftfilter.prompts import PromptSource
from sftfilter.rollouts import Generation, Pool
from sftfilter.scorers import Scorer
from sftfilter.scoring import ScoringPool
from sftfilter.selectors import Selector, check_references
from sftfilter.teachers import Teacher
from sftfilter.training import Execution, TrainingSettings
from sftfilter.traits import Trait
from sftfilter.verdict import Gates

if TYPE_CHECKING:
    from jobs.console import Stages


class Arm(Settings):
    """One line of the experiment: whose rows, changed how. Without a teacher it is the untrained base."""

    teacher: str | None = None
    intervention: Intervention | None = None


class Experiment(JobSpec):
    """Teachers answer prompts, a filter scores the rollouts, every arm trains a student, the traits are measured."""

    aside: ClassVar[frozenset[str]] = JobSpec.aside | {"execution", "generation_pool", "scoring_pool", "serving"}

    kind: Literal["experiment"]
    base_model: Annotated[str, Field(description=f"'{BUILTIN}', a local folder, or a hub id")] = BUILTIN
    system_prompt: Annotated[str | None, Field(description="put before every conversation; keep it short")] = None
    prompts: PromptSource
    teachers: dict[str, Teacher]
    generation: Generation = Generation()
    scorers: dict[str, Scorer] = Field(default={})
    selectors: dict[str, Selector] = Field(default={})
    arms: dict[str, Arm]
    roles: Annotated[Roles, Field(description="which arm is which in the estimands")]
    traits: dict[str, Trait]
    gates: Annotated[Gates, Field(description="frozen before any arm runs")] = Gates()
    seeds: list[int] = Field(default=[0], min_length=1)
    training: TrainingSettings = TrainingSettings()
    execution: Execution = Execution()
    generation_pool: Pool = Pool()
    scoring_pool: ScoringPool = ScoringPool()
    serving: ServingSettings = ServingSettings()

    @model_validator(mode="after")
    def _references(self) -> Experiment:
        check_references(self.selectors, self.scorers)
        for name, arm in self.arms.items():
            _known("teacher", f"arms.{name}.teacher", arm.teacher, self.teachers)
            if arm.intervention is None:
                continue
            if arm.teacher is None:
                raise ValueError(f"arms.{name}: an intervention needs a teacher")
            _known("selector", f"arms.{name}.intervention.subset", arm.intervention.subset, self.selectors)
            if isinstance(arm.intervention, Swap):
                _known("teacher", f"arms.{name}.intervention.to", arm.intervention.to, self.teachers)
        for role, arm_name in self.roles.named().items():
            _known("arm", f"roles.{role}", arm_name, self.arms)
            if role != "base" and self.arms[arm_name].teacher is None:
                raise ValueError(f"roles.{role}: arm '{arm_name}' needs a teacher")
        for name, arm in self.arms.items():
            if isinstance(arm.intervention, DropRow) and arm.teacher != self.original_teacher:
                raise ValueError(
                    f"arms.{name}: drop_row drops scored rows, and only those of '{self.original_teacher}' (the original) "
                    "are scored; use drop_prompt"
                )
        if len(self.seeds) != len(set(self.seeds)):
            raise ValueError("seeds: a seed is listed twice")
        return self

    @property
    def original_teacher(self) -> str:
        """The teacher whose rows are scored and selected from."""
        teacher = self.arms[self.roles.original].teacher
        assert teacher is not None
        return teacher

    def summary(self) -> str:
        """Arms, and students to train."""
        trained = sum(arm.teacher is not None for arm in self.arms.values())
        return f"{len(self.arms)} arms, {trained * len(self.seeds)} students to train"

    def check_fits(self, have: Mapping[str, float]) -> None:
        """Raise MachineError when there are too few CPUs or GPUs for the training workers."""
        need = {
            "CPU": self.execution.workers * self.execution.cpus_per_worker,
            "GPU": float(self.execution.workers if self.execution.use_gpu else 0),
        }
        for resource, amount in need.items():
            if amount > have.get(resource, 0):
                raise MachineError(
                    f"execution.workers: {self.execution.workers} workers need {amount:g} {resource}, this machine has "
                    f"{have.get(resource, 0):g}: lower execution.workers, or submit to a larger cluster"
                )

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """The whole pipeline; answers results.json."""
        from jobs.experiment import run_experiment

        return run_experiment(self, root, stages, command)

    def page(self, root: Path) -> Path:
        """The report."""
        return root / self.name / "report" / "index.html"


def _known(what: str, where: str, name: str | None, known: Mapping[str, Any]) -> None:
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or f"; there are: {', '.join(known)}"
        raise ValueError(f"{where}: no {what} '{name}'{hint}")
