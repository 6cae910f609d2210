"""Job kind `worlds`: the verdict checked against planted causes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.kinds.job import JobSpec
from sftfilter.findings import Gates
from sftfilter.worlds import World, all_worlds
from sftfilter.worlds.suite import REPORT_SEEDS

if TYPE_CHECKING:
    from jobs.console import Stages


class Worlds(JobSpec):
    """Plant causes in tiny synthetic studies, judge each as any study is judged, and compare verdicts with the truth."""

    aside: ClassVar[frozenset[str]] = JobSpec.aside | {"workers"}

    kind: Literal["worlds"]
    worlds: Sequence[World] = Field(
        default_factory=all_worlds,
        min_length=1,
        description="default: all of them",
    )
    variations: list[int] = Field(
        default=list(REPORT_SEEDS), min_length=1, description="seeds of each world's random variations"
    )
    seeds: list[int] = Field(default=[0, 1, 2, 3], min_length=1, description="training seeds of the students")
    gates: Annotated[Gates, Field(description="those of any experiment")] = Gates()
    workers: Annotated[int, Field(gt=0, description="processes, one thread each")] = 2

    @model_validator(mode="after")
    def _distinct(self) -> Worlds:
        for field in ("variations", "seeds"):
            values = getattr(self, field)
            if len(values) != len(set(values)):
                raise ValueError(f"{field}: a seed is listed twice")
        return self

    @property
    def needs_ray(self) -> bool:
        """Tiny models train in this process."""
        return False

    def summary(self) -> str:
        """Worlds and variations."""
        return f"{len(self.worlds)} worlds x {len(self.variations)} variations, about 30 arms x {len(self.seeds)} seeds each"

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Judge every variation; answers worlds.json."""
        from jobs.worlds import run_worlds

        return run_worlds(self, root, stages, command)
