"""Job kind `eval`: traits of a finished run's students, or of any model behind a URL, as Inspect tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.kinds.job import JobSpec
from serve.settings import ServingSettings
from sftfilter.capability import Capability
from sftfilter.config import SpecPath
from sftfilter.endpoint.settings import Endpoint
from sftfilter.traits import Trait

if TYPE_CHECKING:
    from jobs.console import Stages


class Eval(JobSpec):
    """Ask models, grade what they answer, and say how far the judge is to be trusted.

    Attributes:
        run: folder of a finished run; its students are hosted for as long as it takes.
        base_url: any OpenAI-compatible endpoint instead.
        serving: instead of the run's own.
    """

    kind: Literal["eval"]
    aside: ClassVar[frozenset[str]] = JobSpec.aside | {"serving", "concurrency"}

    run_folder: Annotated[SpecPath | None, Field(description="a finished run, whose students are hosted")] = None
    base_url: Annotated[str | None, Field(description="or any endpoint, such as https://host/v1")] = None
    api_key_env: Annotated[str | None, Field(description="the environment variable that holds its key")] = None
    models: list[str] = Field(default=[], description="ids; default: every model of the run")
    traits: Annotated[dict[str, Trait], Field(min_length=1)]
    capability: Annotated[Capability | None, Field(description="measured beside the traits")] = Capability()
    calibrate: Annotated[bool, Field(description="grade the labelled answers as well, and correct the rates")] = True
    serving: ServingSettings | None = None
    concurrency: Annotated[int, Field(gt=0, description="requests in flight")] = 64

    @model_validator(mode="after")
    def _one_target(self) -> Eval:
        if (self.run_folder is None) == (self.base_url is None):
            raise ValueError("needs either `run_folder`, a finished run, or `base_url`, an endpoint")
        if self.base_url is not None and not self.models:
            raise ValueError("models: name the models to ask the endpoint for")
        self.endpoints()
        return self

    @property
    def needs_ray(self) -> bool:
        """Only where students are hosted."""
        return self.base_url is None

    def endpoints(self) -> Sequence[Endpoint]:
        """The endpoint once for each model; none where students are hosted."""
        if self.base_url is None:
            return []
        given = {"base_url": self.base_url, "api_key_env": self.api_key_env}
        return [Endpoint.model_validate({**given, "model": model}) for model in self.models]

    def summary(self) -> str:
        """Traits and models."""
        models = f"{len(self.models)} models" if self.models else "every model of the run"
        return f"{', '.join(self.traits)} of {models}"

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Ask and grade; answers eval.json."""
        from jobs.evals import run_eval

        return run_eval(self, root, stages, command)
