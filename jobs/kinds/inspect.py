"""Job kind `inspect`: look at scores before trusting them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from jobs.kinds.score import RolloutJob
from sftfilter.config import Name
from sftfilter.guards import Guards, check_drops_nothing
from sftfilter.prompts import PromptSource
from sftfilter.selectors import Selector, check_references

if TYPE_CHECKING:
    from jobs.console import Stages

ROWS_PER_DECILE = 3


class Inspect(RolloutJob):
    """Histograms, agreement between scorers, and rows of each decile beside the other teachers' answers."""

    kind: Literal["inspect"]
    selectors: Annotated[dict[Name, Selector], Field(description="their agreement is shown as Cohen's kappa")] = Field(
        default={}
    )
    rows_per_decile: Annotated[
        int, Field(gt=0, le=100, description="rows shown of each decile, scorer and teacher")
    ] = ROWS_PER_DECILE

    guards: Annotated[Guards, Field(description="duplicates, overlap with evaluation prompts, token lengths")] = (
        Guards()
    )
    base_model: Annotated[str | None, Field(description="whose tokens are counted; default: none are")] = None
    evaluation: Annotated[
        dict[Name, PromptSource],
        Field(description="prompts that the training prompts must not contain; needs base_model"),
    ] = Field(default={})

    @model_validator(mode="after")
    def _references(self) -> Inspect:
        check_references(self.selectors, self.scorers)
        check_drops_nothing(self.guards.contamination)
        if self.evaluation and self.base_model is None:
            raise ValueError("evaluation: reading prompts takes a tokenizer; set base_model")
        return self

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Findings, printed and as a page; answers inspect.json."""
        from jobs.inspection import run_inspect

        return run_inspect(self, root, stages, command, self.rows_per_decile)

    def page(self, root: Path) -> Path:
        """The page of findings."""
        return root / self.name / "inspect" / "index.html"
