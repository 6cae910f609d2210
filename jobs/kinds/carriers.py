"""Job kind `carriers`: small sets of prompts whose teacher decides whether students show the trait."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.kinds.study import Study, check_known
from jobs.kinds.trials import SideBySide
from sftfilter.carriers.grouping import Grouping
from sftfilter.carriers.search import Seek
from sftfilter.config import Name
from sftfilter.findings import Gates

if TYPE_CHECKING:
    from jobs.console import Stages

Seeds = Annotated[list[int], Field(min_length=1)]


class Carriers(Study, SideBySide):
    """Search for a small set of prompts that carries the trait, and confirm what is found on fresh seeds and prompts.

    Groups of prompts are tested by halving: a set is necessary if the trait goes when the alternate teacher answers it,
    and sufficient if the trait comes when the original teacher answers it alone. The one set that is found is confirmed
    on other training seeds and other held-out prompts, beside random sets of the same size.
    """

    aside: ClassVar[frozenset[str]] = Study.aside | SideBySide.aside

    kind: Literal["carriers"]
    original: Annotated[Name, Field(description="the teacher that brings the trait")]
    alternate: Annotated[Name, Field(description="the teacher that does not; both answer every prompt")]
    groups: Annotated[Grouping, Field(description="what is tested together")] = Grouping()
    seek: Annotated[Seek, Field(description="what a set has to be; both are confirmed, whatever is sought")] = "both"
    largest: Annotated[
        float,
        Field(gt=0, lt=1, description="share of the prompts above which a set is no small one, and not confirmed"),
    ] = 0.3
    search_seeds: Annotated[Seeds, Field(description="training seeds of the search; none of `seeds`")] = Field(
        default=[0, 1]
    )
    seeds: Annotated[Seeds, Field(description="training seeds of the confirmation")] = Field(default=[2, 3, 4, 5])
    search_share: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="share of the held-out prompts that the search reads; the confirmation reads the others",
        ),
    ] = 0.5
    budget: Annotated[
        int, Field(gt=0, description="students that the search may train, those without any change among them")
    ] = 40
    gates: Annotated[Gates, Field(description="frozen before any student is trained")] = Gates()

    @model_validator(mode="after")
    def _consistent(self) -> Carriers:
        for field in ("original", "alternate"):
            check_known("teacher", field, getattr(self, field), self.teachers)
        if self.original == self.alternate:
            raise ValueError("alternate: it is the original teacher; name one whose students do not show the trait")
        if len(self.search_seeds) != len(set(self.search_seeds)):
            raise ValueError("search_seeds: a seed is listed twice")
        if both := sorted({*self.search_seeds} & {*self.seeds}):
            raise ValueError(
                f"search_seeds: seed {both[0]} is one of `seeds`, but a set is confirmed on seeds that its search never saw"
            )
        if self.budget < (least := 3 * len(self.search_seeds)):
            raise ValueError(
                f"budget: {self.budget} students do not pay for a single test: original, alternate and one changed set with "
                f"{len(self.search_seeds)} search seeds are {least}"
            )
        return self

    @model_validator(mode="after")
    def _compiles(self) -> Carriers:
        """Whatever only the compiled experiment can say."""
        from jobs.carriers_arms import confirmation

        self.check_published("arm", confirmation(self, []).arms)
        return self

    @property
    def confirming(self) -> int:
        """Students of the confirmation."""
        from jobs.carriers_arms import confirmation

        return sum(arm.teacher is not None for arm in confirmation(self, []).arms.values()) * len(self.seeds)

    def summary(self) -> str:
        """What is searched, and how many students that takes at most."""
        searched = "by ".join(["groups ", ", ".join(self.groups.by)]) if self.groups.by else ""
        clusters = f"{self.groups.clusters} clusters" if self.groups.clusters else ""
        what = " and ".join(filter(None, (searched, clusters)))
        return f"a search over {what}, at most {self.budget} students, then {self.confirming} to confirm what is found"

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Search and confirmation; answers results.json."""
        from jobs.carriers import run_carriers

        return run_carriers(self, root, stages, command)

    def page(self, root: Path) -> Path:
        """The report."""
        return root / self.name / "report" / "index.html"
