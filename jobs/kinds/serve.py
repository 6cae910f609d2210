"""Job kind `serve`: the students of a finished run behind one OpenAI-compatible endpoint, until it is stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from jobs.kinds.job import JobSpec
from serve.settings import ServingSettings

if TYPE_CHECKING:
    from jobs.console import Stages


class Serve(JobSpec):
    """Hosts the run called `name` below `results`. The token is SFTFILTER_API_KEY, or a new one in a file."""

    aside: ClassVar[frozenset[str]] = JobSpec.aside | {"serving"}
    writes_results: ClassVar[bool] = False

    kind: Literal["serve"]
    models: Annotated[list[str] | None, Field(min_length=1, description="ids to serve; default: all of the run's")] = (
        None
    )
    serving: ServingSettings = ServingSettings()

    def summary(self) -> str:
        """Whose students, and where."""
        which = "all models" if self.models is None else f"{len(self.models)} models"
        return f"{which} of run '{self.name}' at {self.serving.host}:{self.serving.port}"

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Serve until Ctrl-C; answers what was served."""
        from jobs.serving import run_serve

        del command
        return run_serve(self, root, stages)
