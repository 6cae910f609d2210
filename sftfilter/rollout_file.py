"""A teacher that needs no model: its answers lie in a file."""

from __future__ import annotations

from typing import Any, Literal

from sftfilter.config import Settings, SpecPath, file_hash
from sftfilter.prompts import existing_file, read_answers


class RolloutFile(Settings):
    """Answers that exist already: JSONL with `prompt` (or `messages`) and `completion`."""

    kind: Literal["rollouts"]
    path: SpecPath

    def fingerprint(self) -> str:
        """Changes with the file's bytes."""
        return file_hash(existing_file(self.path))

    def read(self, error_budget: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows and quarantined rows."""
        return read_answers(self.path, error_budget)
