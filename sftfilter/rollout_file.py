"""A teacher that needs no model: its answers lie in files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sftfilter.reading.source import FileSource


class RolloutFile(FileSource):
    """Answers that exist already, with the prompts that they answer."""

    kind: Literal["rollouts"] = "rollouts"
    ratings: Annotated[
        list[str], Field(description="columns with numbers or flags to keep with each row; see scorer kind `column`")
    ] = Field(default=[])
