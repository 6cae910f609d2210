"""What the kinds have in common whose students are trials of Ray Tune, trained side by side."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from jobs.kinds.job import JobSpec


class SideBySide(JobSpec):
    """Base of these kinds."""

    aside: ClassVar[frozenset[str]] = JobSpec.aside | {"concurrency", "retries"}

    concurrency: Annotated[
        int | None, Field(gt=0, description="students trained at a time; default: as many as the cluster can hold")
    ] = None
    retries: Annotated[int, Field(ge=0, description="times that a failed student is tried again")] = 1
