"""What every job kind has: a name, a folder for its results, a hash of what could change its outcome, and how to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from sftfilter.config import Settings, file_hash, stable_hash

if TYPE_CHECKING:
    from jobs.console import Stages


RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class JobSpec(Settings):
    """Base of every job kind. A kind's class parses in no time; its `run` imports what is heavy.

    Attributes:
        aside: fields that change where or how fast a job runs, but not its outcome.
        writes_results: whether two of one name at once would mix what they write, so that the second is refused.
    """

    aside: ClassVar[frozenset[str]] = frozenset({"name", "results", "worker_hour_price"})
    writes_results: ClassVar[bool] = True

    name: RunName
    results: Annotated[str, Field(description="folder for artifacts and reports, shared by all nodes")] = "runs"
    error_budget: Annotated[
        float,
        Field(
            ge=0, lt=1, description="share of rows that may be quarantined, of prompts that a teacher may not answer"
        ),
    ] = 0.01
    worker_hour_price: Annotated[
        float | None,
        Field(
            ge=0, description="of a node that works, an hour, in any currency; `sftfilter status` shows the cost so far"
        ),
    ] = None

    @field_validator("results")
    @classmethod
    def _a_folder(cls, results: str) -> str:
        if "://" in results:  # as a path it would be a folder of that name beside the spec
            raise ValueError(
                f"'{results}': results need a folder that all nodes mount; only execution.checkpoints may be a bucket"
            )
        return results

    @property
    def spec_hash(self) -> str:
        """Hash of everything that can change the outcome."""
        return stable_hash(_portable(self.model_dump(mode="json", exclude=set(self.aside))))

    @property
    def needs_ray(self) -> bool:
        """Whether a cluster has to be there."""
        return True

    def summary(self) -> str:
        """What `sftfilter validate` says of a valid spec: its size, in a few words."""
        raise NotImplementedError

    def check_fits(self, have: Mapping[str, float]) -> None:
        """Raise MachineError when resources like these (`CPU`, `GPU`) could never run the job."""

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Run every stage that is not there yet on the connected Ray cluster, and print what came of it.

        Args:
            root: resolved results folder; artifacts go below `root/artifacts`, the outcome to `root/<name>`.
            command: how to run the same again; written down with the outcome.

        Returns:
            What the job writes as JSON.
        """
        raise NotImplementedError

    def page(self, root: Path) -> Path | None:
        """The page to open in a browser afterwards, if the job writes one."""
        del root


def _portable(value: Any) -> Any:
    """Paths of files replaced by the hash of their bytes, so that the hash is the same in every clone."""
    if isinstance(value, dict):
        return {key: _portable(v) for key, v in value.items() if key != "api_key_file"}
    if isinstance(value, list):
        return [_portable(v) for v in value]
    if isinstance(value, str) and Path(value).is_absolute() and Path(value).is_file():
        return file_hash(value)
    return value
