"""A worker that waits for one that does not answer ends itself after a while, and leaves word of where it waited.

Not every collective can time out by itself: DeepSpeed's in shared memory spin for ever, and groups it makes have limits
of their own. So each worker watches its own steps. A worker that is stopped or whose machine hangs leaves no word, and
that tells who it was; of those that do, the one that is not inside a collective is at fault.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType

_WAITING = ("all_reduce", "allreduce", "barrier", "broadcast", "gather", "reduce_scatter", "wait", "backward")
EXIT = 75
"""Exit code of a worker that gave up waiting."""


class Watchdog:
    """Ends this process when a step takes longer than `seconds`; a context manager around the steps of an arm."""

    def __init__(self, folder: Path, rank: int, seconds: float) -> None:
        self.folder, self.rank, self.seconds = folder, rank, seconds
        self._main = threading.get_ident()
        self._step = 0
        self._since = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def step(self, number: int) -> None:
        """A step begins."""
        self._step, self._since = number, time.monotonic()

    def __enter__(self) -> Watchdog:
        self._since = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self._since > self.seconds:
                frame = sys._current_frames().get(self._main)
                calls = [
                    f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in traceback.extract_stack(frame)
                ]
                word = {"step": self._step, "in": calls[-1] if calls else "", "waits": _waits(calls)}
                (self.folder / f"stuck-{self.rank}.json").write_text(json.dumps(word))
                os._exit(EXIT)


def _waits(calls: list[str]) -> bool:
    return any(name in call for call in calls[-4:] for name in _WAITING)


def blame(folder: Path, workers: int) -> str | None:
    """Who did not answer, from the words that the others left; None if nobody gave up waiting."""
    words = {}
    for file in folder.glob("stuck-*.json"):
        words[int(file.stem.removeprefix("stuck-"))] = json.loads(file.read_text())
    if not words:
        return None
    silent = [rank for rank in range(workers) if rank not in words]
    busy = silent or [rank for rank, word in words.items() if not word["waits"]] or sorted(words)
    where = [f"in {words[rank]['in']}" if rank in words else "without a sign of life" for rank in busy]
    step = next(iter(words.values()))["step"]
    others = ", ".join(str(rank) for rank in sorted(words) if rank not in busy)
    named = ", ".join(f"{rank} ({place})" for rank, place in zip(busy, where, strict=True))
    return f"training worker {named} did not finish step {step}" + (f", while {others} waited for it" if others else "")
