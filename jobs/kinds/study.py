"""What the kinds that train students share: teachers that answer, scorers, traits, and the machines for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from jobs.kinds.answering import Answering, Teaching
from jobs.kinds.published import Published
from serve.settings import ServingSettings
from sftfilter.capability import Capability
from sftfilter.config import Name, did_you_mean
from sftfilter.guards import Contamination
from sftfilter.scorers import Scorer
from sftfilter.scoring import ScoringPool
from sftfilter.traits import Trait


class Measuring(Teaching):
    """Base of the kinds that train students on teachers' answers and measure traits, whatever bases and prompts they have."""

    aside: ClassVar[frozenset[str]] = Teaching.aside | {"scoring_pool", "serving", "published"}

    contamination: Annotated[
        Contamination,
        Field(
            description="evaluation prompts in training prompts and in the files that scorers and teachers learn from"
        ),
    ] = Contamination()
    scorers: dict[Name, Scorer] = Field(default={})
    traits: dict[Name, Trait]
    capability: Annotated[
        Capability | None,
        Field(description="measured beside the traits, so that a broken student is not taken for a safe one"),
    ] = Capability()
    seeds: list[int] = Field(default=[0], min_length=1)
    scoring_pool: ScoringPool = ScoringPool()
    serving: ServingSettings = ServingSettings()
    published: list[Published] = Field(
        default=[],
        description="what a study elsewhere found, for results and report to show beside what is measured here (a sweep does not)",
    )

    @model_validator(mode="after")
    def _distinct_seeds(self) -> Self:
        if len(self.seeds) != len(set(self.seeds)):
            raise ValueError("seeds: a seed is listed twice")
        return self

    def check_published(self, what: str, known: Iterable[str]) -> None:
        """Raise ValueError where a published figure is of a trait, a measure or an arm (called `what`) that is not there."""
        names = dict.fromkeys(known)
        for number, figure in enumerate(self.published):
            where = f"published.{number}"
            check_known("trait", f"{where}.trait", figure.trait, self.traits)
            check_known(what, f"{where}.of", figure.of, names)
            if figure.trait is not None:
                measures = dict.fromkeys(self.traits[figure.trait].measure_names)
                check_known("measure", f"{where}.measure", figure.measure, measures)


class Study(Measuring, Answering):
    """Base of the kinds in which teachers answer prompts, students are trained on the answers and traits are measured."""


def check_known(what: str, where: str, name: str | None, known: Mapping[str, Any]) -> None:
    """Raise ValueError when a name refers to nothing."""
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or f"; there are: {', '.join(known)}"
        raise ValueError(f"{where}: no {what} '{name}'{hint}")
