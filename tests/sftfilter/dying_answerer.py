"""An actor that dies of one prompt, as of one that crashes a tokenizer: SIGKILL, so that nothing of its own can be said."""

from __future__ import annotations

import os
import signal
from typing import Any

from sftfilter.rollouts import Answerer

DEADLY = "deadly"


class DyingAnswerer(Answerer):
    """Dies of every batch that has the prompt."""

    def _answered(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if any(row["prompt_id"] == DEADLY for row in rows):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._answered(rows)
