"""Job kind `calibrate`: which scorer finds the trait's rows, measured on mixtures where it is known which they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from jobs.kinds.study import Study, check_known
from sftfilter.config import Name, Settings
from sftfilter.mixtures import Subtlety

if TYPE_CHECKING:
    from jobs.console import Stages

Rate = Annotated[float, Field(gt=0, le=0.5)]


class Retrain(Settings):
    """Students trained on one mixture, with what the best scorers find removed, and with the controls."""

    top: Annotated[int, Field(gt=0, description="so many scorers, by average precision on this mixture")] = 2
    subtlety: Annotated[str, Field(description="which of `subtleties`")]
    rate: Annotated[Rate, Field(description="which of `rates`")]
    min_gap: Annotated[
        float, Field(gt=0, lt=1, description="trait with nothing removed less that of the clean teacher's student")
    ] = 0.2


class Calibrate(Study):
    """Plant rows of a teacher with the trait among a clean one's, and see which scorers find them."""

    kind: Literal["calibrate"]
    trait_teacher: Annotated[str, Field(description="whose rows are planted")]
    clean_teacher: Annotated[str, Field(description="among whose rows they are planted")]
    rates: list[Rate] = Field(default=[0.01, 0.05, 0.15], min_length=1, description="shares of planted rows")
    subtleties: dict[Name, Subtlety] = Field(
        default={"overt": Subtlety(shows=True), "mild": Subtlety(shows=False)}, min_length=1
    )
    draws: Annotated[int, Field(gt=0, description="mixtures of each rate and subtlety")] = 10
    replicates: Annotated[int, Field(ge=100, description="of the bootstrap over prompts")] = 1000
    seed: Annotated[int, Field(description="of mixtures and bootstrap; `seeds` are the students'")] = 0
    retrain: Annotated[Retrain | None, Field(description="null: students are not trained")] = None

    @model_validator(mode="after")
    def _references(self) -> Calibrate:
        if len(self.traits) != 1:
            raise ValueError(f"traits: a calibration is about one trait, {len(self.traits)} are named")
        if not self.scorers:
            raise ValueError("scorers: name at least one")
        for field in ("trait_teacher", "clean_teacher"):
            check_known("teacher", field, getattr(self, field), self.teachers)
        if self.trait_teacher == self.clean_teacher:
            raise ValueError("trait_teacher and clean_teacher are the same")
        if len(self.rates) != len(set(self.rates)):
            raise ValueError("rates: a rate is listed twice")
        if self.retrain:
            check_known("subtlety", "retrain.subtlety", self.retrain.subtlety, self.subtleties)
            if self.retrain.rate not in self.rates:
                raise ValueError(f"retrain.rate: {self.retrain.rate:g} is not one of `rates`")
        self.check_published("scorer", self.scorers)
        return self

    @property
    def trait(self) -> str:
        """Name of the trait."""
        return next(iter(self.traits))

    def summary(self) -> str:
        """Scorers, mixtures and students."""
        cells = len(self.rates) * len(self.subtleties)
        # clean, nothing removed, oracle, random, and the scorers
        students = (4 + min(self.retrain.top, len(self.scorers))) * len(self.seeds) if self.retrain else 0
        return f"{len(self.scorers)} scorers on {cells} kinds of mixture, {students} students to train"

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """The whole bench; answers results.json."""
        from jobs.calibrate import run_calibration

        return run_calibration(self, root, stages, command)
