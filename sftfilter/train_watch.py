"""What Ray Train's controller tells people: that workers failed, and that training goes on without them."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback

from sftfilter import progress
from sftfilter.train_failures import named, reason


class Restarts(UserCallback):
    """Adds a note to the progress file whenever workers fail, with the first reason."""

    def __init__(self, events: str) -> None:
        self.events = events

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Called by the controller before it decides whether to start the group again."""
        ranks = named([str(rank) for rank in sorted(worker_exceptions)])
        _, first = reason(next(iter(worker_exceptions.values())))
        progress.append(self.events, {"note": f"training worker {ranks} failed: {first[:300]}"})
