"""Job kind `experiment`: from prompts to a verdict, a student for every arm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from jobs.kinds.study import Study, check_known
from sftfilter.config import Settings
from sftfilter.estimands import Roles
from sftfilter.interventions import DropRow, Intervention, Swap
from sftfilter.selectors import Selector, check_references
from sftfilter.verdict import Gates

if TYPE_CHECKING:
    from jobs.console import Stages


class Arm(Settings):
    """One line of the experiment: whose rows, changed how. Without a teacher it is the untrained base."""

    teacher: str | None = None
    intervention: Intervention | None = None


class Experiment(Study):
    """Teachers answer prompts, a filter scores the rollouts, every arm trains a student, the traits are measured."""

    kind: Literal["experiment"]
    selectors: dict[str, Selector] = Field(default={})
    arms: dict[str, Arm]
    roles: Annotated[Roles, Field(description="which arm is which in the estimands")]
    gates: Annotated[Gates, Field(description="frozen before any arm runs")] = Gates()

    @model_validator(mode="after")
    def _references(self) -> Experiment:
        check_references(self.selectors, self.scorers)
        for name, arm in self.arms.items():
            check_known("teacher", f"arms.{name}.teacher", arm.teacher, self.teachers)
            if arm.intervention is None:
                continue
            if arm.teacher is None:
                raise ValueError(f"arms.{name}: an intervention needs a teacher")
            check_known("selector", f"arms.{name}.intervention.subset", arm.intervention.subset, self.selectors)
            if isinstance(arm.intervention, Swap):
                check_known("teacher", f"arms.{name}.intervention.to", arm.intervention.to, self.teachers)
        for role, arm_name in self.roles.named().items():
            check_known("arm", f"roles.{role}", arm_name, self.arms)
            if role != "base" and self.arms[arm_name].teacher is None:
                raise ValueError(f"roles.{role}: arm '{arm_name}' needs a teacher")
        for name, arm in self.arms.items():
            if isinstance(arm.intervention, DropRow) and arm.teacher != self.original_teacher:
                raise ValueError(
                    f"arms.{name}: drop_row drops scored rows, and only those of '{self.original_teacher}' (the original) "
                    "are scored; use drop_prompt"
                )
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

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """The whole pipeline; answers results.json."""
        from jobs.experiment import run_experiment

        return run_experiment(self, root, stages, command)

    def page(self, root: Path) -> Path:
        """The report."""
        return root / self.name / "report" / "index.html"
