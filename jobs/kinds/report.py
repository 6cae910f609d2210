"""Job kind `report`: draw the pages of finished experiments again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jobs.kinds.job import JobSpec, RunName

if TYPE_CHECKING:
    from jobs.console import Stages


class Report(JobSpec):
    """Write reports from `results.json` and the rows kept beside it. Needs neither models nor Ray.

    For results that were copied here from elsewhere, or were made by an earlier version whose pages showed less.
    """

    kind: Literal["report"]
    of: Annotated[list[RunName], Field(min_length=1, description="experiments below `results`, by name")]

    @property
    def needs_ray(self) -> bool:
        """It does not."""
        return False

    def summary(self) -> str:
        """Experiments."""
        return f"{len(self.of)} experiments"

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Pages; answers report.json."""
        from jobs.report import run_report

        return run_report(self, root, stages, command)

    def page(self, root: Path) -> Path:
        """The first experiment's report."""
        return root / self.of[0] / "report" / "index.html"
