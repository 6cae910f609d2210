"""A teacher that needs no model: its answers lie in files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sftfilter.config import file_hash
from sftfilter.prompts import existing_file, read_answers
from sftfilter.reading.source import FileSource


class RolloutFile(FileSource):
    """Answers that exist already, with the prompts that they answer."""

    kind: Literal["rollouts"]
    ratings: Annotated[
        list[str], Field(description="columns with numbers or flags to keep with each row; see scorer kind `column`")
    ] = Field(default=[])

    def fingerprint(self) -> str:
        """Changes with the file's bytes."""
        return file_hash(existing_file(self.paths[0]))

    def read(self, error_budget: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows and quarantined rows."""
        return read_answers(self.paths[0], error_budget)
