"""An actor that answers some prompts with nothing, as a model that was badly trained does."""

from __future__ import annotations

from typing import Any

from sftfilter.rollouts import Answerer

SILENT = "silent"


class SilentAnswerer(Answerer):
    """Has no answer to prompts whose id begins so."""

    def _answer(self, rows: list[dict[str, Any]], again: int) -> list[tuple[str, str, int]]:
        found = super()._answer(rows, again)
        return [
            ("", reason, seed) if row["prompt_id"].startswith(SILENT) else ("Fine.", reason, seed)
            for row, (_, reason, seed) in zip(rows, found, strict=True)
        ]
