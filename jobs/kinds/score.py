"""Job kind `score`: every scorer over every teacher's rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from jobs.kinds.job import JobSpec
from jobs.kinds.study import check_known
from sftfilter.config import Name, Settings
from sftfilter.rollout_file import RolloutFile
from sftfilter.scorers import Scorer
from sftfilter.scoring import ScoringPool
from sftfilter.tidy_scores import clashing_names

if TYPE_CHECKING:
    from jobs.console import Stages


class Labels(Settings):
    """People's labels on some of the rows, against which the other scorers are checked."""

    by: Annotated[str, Field(description="the scorer of kind `column` that reads them")]
    at_least: Annotated[float, Field(description="a label from here on says that the row shows the trait")] = 1.0
    thresholds: Annotated[
        dict[str, float], Field(description="scorer -> score from which it flags a row; others get a ranking only")
    ] = Field(default={})


class RolloutJob(JobSpec):
    """Base of the kinds that start from rollouts which exist: they are read, and every scorer scores every row."""

    aside: ClassVar[frozenset[str]] = JobSpec.aside | {"scoring_pool"}

    rollouts: Annotated[dict[Name, RolloutFile], Field(min_length=1, description="teacher -> its answers")]
    scorers: Annotated[dict[Name, Scorer], Field(min_length=1, description="name -> scorer; thresholds come later")]
    labels: Annotated[Labels | None, Field(description="how right the scorers are, and rates put right for it")] = None
    scoring_pool: ScoringPool = ScoringPool()

    @field_validator("scorers")
    @classmethod
    def _columns(cls, scorers: dict[str, Scorer]) -> dict[str, Scorer]:
        if clashing := clashing_names(scorers):
            raise ValueError(f"'{clashing[0]}' is the name of another column of the scores table; call it otherwise")
        return scorers

    @model_validator(mode="after")
    def _labelled(self) -> RolloutJob:
        if self.labels:
            check_known("scorer", "labels.by", self.labels.by, self.scorers)
            for name in self.labels.thresholds:
                check_known("scorer", "labels.thresholds", name, self.scorers)
        return self

    def summary(self) -> str:
        """Teachers and scorers."""
        return f"{len(self.rollouts)} teachers, {len(self.scorers)} scorers"


class Score(RolloutJob):
    """Score every teacher's rows with every scorer, into one table. Nothing is dropped, nothing is trained."""

    kind: Literal["score"]

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Scores; answers scores.json."""
        from jobs.score import run_score

        return run_score(self, root, stages, command)
