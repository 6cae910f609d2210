"""Job kind `experiment`: from prompts to a verdict, a student for every arm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.kinds.role_checks import check_roles
from jobs.kinds.study import Study, check_known
from sftfilter.config import Name, Settings
from sftfilter.estimands import Roles
from sftfilter.interventions import Backfill, Intervention, Paraphrase, Swap
from sftfilter.prompts import PromptSource
from sftfilter.selectors import Selector, check_references, scorers_of
from sftfilter.training_settings import Lora, TrainingSettings
from sftfilter.verdict import Gates

if TYPE_CHECKING:
    from jobs.console import Stages


class Arm(Settings):
    """One line of the experiment: whose rows, changed how. Without a teacher it is the untrained base."""

    teacher: str | None = None
    intervention: Intervention | None = None


class Experiment(Study):
    """Teachers answer prompts, a filter scores the rollouts, every arm trains a student, the traits are measured."""

    asks_in_training: ClassVar[bool] = True

    kind: Literal["experiment"]
    reserve: Annotated[
        PromptSource | None, Field(description="prompts that no arm uses but to backfill what it dropped")
    ] = None
    selectors: dict[Name, Selector] = Field(default={})
    arms: dict[Name, Arm]
    confirm: Annotated[
        list[str],
        Field(
            description="arms of a screening (training.method.top_layers) that get adapters on every layer after all"
        ),
    ] = Field(default=[])
    roles: Annotated[Roles, Field(description="which arm is which in the estimands")]
    gates: Annotated[Gates, Field(description="frozen before any arm runs")] = Gates()

    @model_validator(mode="after")
    def _references(self) -> Experiment:
        check_references(self.selectors, self.scorers)
        for name, arm in self.arms.items():
            check_known("teacher", f"arms.{name}.teacher", arm.teacher, self.teachers)
            if arm.intervention is not None:
                self._check_intervention(f"arms.{name}", arm.teacher, arm.intervention)
        for role, arm_name in self.roles.named().items():
            check_known("arm", f"roles.{role}", arm_name, self.arms)
            if role != "base" and self.arms[arm_name].teacher is None:
                raise ValueError(f"roles.{role}: arm '{arm_name}' needs a teacher")
        check_roles(self.roles, self.arms, self.selectors)
        self.check_published("arm", self.arms)
        return self

    @model_validator(mode="after")
    def _confirmed(self) -> Experiment:
        if not self.confirm:
            return self
        if not isinstance(self.training.method, Lora) or self.training.method.top_layers is None:
            raise ValueError("confirm: nothing is screened; set training.method.top_layers, or leave confirm out")
        for name in self.confirm:
            check_known("arm", "confirm", name, self.arms)
        trained = {name for role, name in self.roles.named().items() if role != "base"}
        screened = sorted(trained - set(self.confirm))
        if screened and len(screened) < len(trained):
            raise ValueError(
                f"confirm: estimands compare arms that are trained alike, so confirm every arm that has a role, or none; "
                f"missing: {', '.join(screened)}"
            )
        return self

    @model_validator(mode="after")
    def _ranked(self) -> Experiment:
        exports = self.training.exports
        if exports and exports.by_trait:
            check_known("trait", "training.exports.metric", exports.metric, self.traits)
        if self.execution.ask_exports and exports is None:
            raise ValueError("execution.ask_exports: there are no checkpoints in between; set training.exports")
        return self

    @property
    def asks_exports(self) -> bool:
        """Whether checkpoints in between are asked while training goes on."""
        exports = self.training.exports
        return exports is not None and (exports.by_trait or self.execution.ask_exports)

    def training_of(self, arm: str) -> TrainingSettings:
        """How an arm is trained: as `training` says, with adapters on every layer if it is to be confirmed."""
        if arm not in self.confirm:
            return self.training
        return self.training.model_copy(update={"method": self.training.method.model_copy(update={"top_layers": None})})

    def _check_intervention(self, where: str, teacher: str | None, intervention: Intervention) -> None:
        if teacher is None:
            raise ValueError(f"{where}: an intervention needs a teacher")
        where += ".intervention"
        check_known("selector", f"{where}.subset", intervention.subset, self.selectors)
        match intervention:
            case Swap():
                for other in intervention.teachers:
                    check_known("teacher", f"{where}.to", other, self.teachers)
                check_known("scorer", f"{where}.lowest", intervention.lowest, self.scorers)
            case Backfill():
                check_known("teacher", f"{where}.with_teacher", intervention.with_teacher, self.teachers)
                if self.reserve is None:
                    raise ValueError(f"{where}: backfill takes rows on the prompts of `reserve`, and there is none")
            case Paraphrase() if intervention.by in self.teachers:
                kind = self.teachers[intervention.by].kind
                if kind != "tuned":
                    raise ValueError(
                        f"{where}.by: teacher '{intervention.by}' is of kind {kind}; name a tuned one or a model"
                    )

    @property
    def original_teacher(self) -> str:
        """The teacher whose rows are scored and selected from."""
        teacher = self.arms[self.roles.original].teacher
        assert teacher is not None
        return teacher

    @property
    def scored(self) -> list[tuple[str, str]]:
        """(teacher, scorer) pairs that are scored: the original's rows by all, others' where an arm decides by them."""
        interventions = [
            (arm.teacher, arm.intervention) for arm in self.arms.values() if arm.teacher and arm.intervention
        ]
        own = [(t, s) for t, i in interventions if i.by_row for s in scorers_of(i.subset, self.selectors)]
        others = [pair for _, i in interventions for pair in i.needs_scores()]
        return list(dict.fromkeys([*((self.original_teacher, s) for s in self.scorers), *own, *others]))

    @property
    def backfilled_by(self) -> list[str]:
        """Teachers who answer the reserve prompts."""
        interventions = [arm.intervention for arm in self.arms.values()]
        return list(dict.fromkeys(i.with_teacher for i in interventions if isinstance(i, Backfill)))

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
