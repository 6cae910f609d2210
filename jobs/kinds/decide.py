"""Job kind `decide`: score, select, intervene, and write the training set that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.kinds.score import RolloutJob
from jobs.kinds.study import check_known
from sftfilter.config import Name, Settings
from sftfilter.guards import Contamination, check_drops_nothing
from sftfilter.interventions import Backfill, Intervention, Swap
from sftfilter.prompts import PromptSource
from sftfilter.rollout_file import RolloutFile
from sftfilter.rollouts import Pool
from sftfilter.selectors import Selector, check_references

if TYPE_CHECKING:
    from jobs.console import Stages


class Decision(Settings):
    """One training set: whose rows, changed how. Without an intervention it is all of that teacher's rows."""

    teacher: str
    intervention: Intervention | None = None


class Sweep(Settings):
    """One selector's bound moved through values: every decision that uses it is counted at each, and none is exported."""

    selector: str
    field: Annotated[
        Literal["at_least", "above", "at_most", "below", "fraction", "k"], Field(description="the selector's own bound")
    ] = "at_least"
    values: Annotated[list[float], Field(min_length=1)]


class Decide(RolloutJob):
    """Score every row, decide what becomes of it, and write the training sets. Nothing is trained."""

    aside: ClassVar[frozenset[str]] = RolloutJob.aside | {"generation_pool"}

    kind: Literal["decide"]
    selectors: Annotated[dict[Name, Selector], Field(description="name -> rows chosen by their stored scores")]
    decisions: Annotated[dict[Name, Decision], Field(min_length=1, description="name -> a training set")]
    original: Annotated[
        str | None, Field(description="teacher whose rows the selectors choose from; default: each decision's own")
    ] = None
    sweep: Sweep | None = None
    export: Annotated[
        Literal["parquet", "jsonl", "none"],
        Field(description="training sets in chat form, below <results>/<name>/train"),
    ] = "none"
    seed: Annotated[int, Field(description="random controls and what is added are drawn anew with another")] = 0
    reserve: Annotated[
        dict[Name, RolloutFile], Field(description="teacher -> answers to prompts that only `backfill` uses")
    ] = Field(default={})
    system_prompt: Annotated[str | None, Field(description="what `inoculate` adds its line to")] = None
    generation_pool: Annotated[Pool, Field(description="for `paraphrase`")] = Pool()
    base_model: Annotated[str | None, Field(description="whose template evaluation prompts are read with")] = None
    evaluation: Annotated[
        dict[Name, PromptSource],
        Field(description="prompts that no training set may contain; needs base_model"),
    ] = Field(default={})
    contamination: Annotated[
        Contamination,
        Field(
            description="evaluation prompts in training prompts and in the files that scorers and teachers learn from"
        ),
    ] = Contamination()

    @model_validator(mode="after")
    def _references(self) -> Decide:
        check_drops_nothing(self.contamination)
        if self.evaluation and self.base_model is None:
            raise ValueError("evaluation: reading prompts takes a tokenizer; set base_model")
        check_references(self.selectors, self.scorers)
        check_known("teacher", "original", self.original, self.rollouts)
        for name, decision in self.decisions.items():
            where, intervention = f"decisions.{name}", decision.intervention
            check_known("teacher", f"{where}.teacher", decision.teacher, self.rollouts)
            if intervention is None:
                continue
            check_known("selector", f"{where}.intervention.subset", intervention.subset, self.selectors)
            if isinstance(intervention, Swap):
                for teacher in intervention.teachers:
                    check_known("teacher", f"{where}.intervention.to", teacher, self.rollouts)
                check_known("scorer", f"{where}.intervention.lowest", intervention.lowest, self.scorers)
            if isinstance(intervention, Backfill):
                check_known(
                    "teacher in `reserve`",
                    f"{where}.intervention.with_teacher",
                    intervention.with_teacher,
                    self.reserve,
                )
        if self.sweep:
            check_known("selector", "sweep.selector", self.sweep.selector, self.selectors)
            if getattr(self.selectors[self.sweep.selector], self.sweep.field, None) is None:
                raise ValueError(f"sweep.field: selector '{self.sweep.selector}' sets no {self.sweep.field}")
            for value in self.sweep.values:
                self.selectors_at(value)
        return self

    def selectors_at(self, value: float) -> dict[str, Selector]:
        """The selectors with the swept one at a value.

        Raises:
            ValueError: the selector cannot take it.
        """
        assert self.sweep is not None
        swept = self.selectors[self.sweep.selector]
        moved = type(swept).model_validate(swept.model_dump() | {self.sweep.field: value})
        return {**self.selectors, self.sweep.selector: moved}

    def summary(self) -> str:
        """Teachers, scorers and decisions."""
        return f"{super().summary()}, {len(self.decisions)} decisions"

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Scores, decisions, training sets; answers decide.json."""
        from jobs.decide import run_decide

        return run_decide(self, root, stages, command)
