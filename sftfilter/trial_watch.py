"""What Ray Tune's driver does between its steps: pass on the progress that trials wrote down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from sftfilter.progress import Tail


class TrialWatch(tune.Callback):
    """Calls `on_event` for every event that a trial adds to its file."""

    def __init__(self, files: Sequence[Path], on_event: Callable[[Mapping[str, Any]], None]) -> None:
        self._tails = [Tail(file) for file in files]
        self._on_event = on_event

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """Called by Tune a few times a second."""
        self._tell()

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """Called by Tune at the end."""
        self._tell()

    def _tell(self) -> None:
        for tail in self._tails:
            for event in tail.events():
                self._on_event(event)

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its set-up down, in which a console has no place."""
        return {"_tails": [], "_on_event": print}
