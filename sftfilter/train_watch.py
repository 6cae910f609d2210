"""What Ray Train's controller tells people: that workers failed, and that training goes on without them."""

from __future__ import annotations

import contextlib
from typing import Any

from ray.train import UserCallback

from sftfilter import progress
from sftfilter.errors import MachineError
from sftfilter.train_failures import what_failed


class Restarts(UserCallback):
    """Adds a note to the progress file whenever workers fail, with the first reason."""

    def __init__(self, events: str) -> None:
        self.events = events

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Called by the controller before it decides whether to start the group again."""
        note = f"{what_failed(worker_exceptions)}; trying again if max_failures allows"
        with contextlib.suppress(MachineError):  # the same disk fails the workers, who tell of it
            progress.append(self.events, {"note": note})
