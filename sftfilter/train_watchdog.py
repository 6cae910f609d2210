"""A worker that waits for one that does not answer ends itself after a while, and leaves word of where it waited.

Not every collective can time out by itself: DeepSpeed's in shared memory spin for ever, and groups it makes have limits
of their own. So each worker watches itself from its start to its end. A worker that is stopped or whose machine hangs
leaves no word, and that tells who it was; of those that do, the one that is not inside a collective is at fault.
"""

from __future__ import annotations

import contextlib
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
UNSTEADY_S = 900
"""Seconds that whatever reads or writes models may take, however short steps are to be."""


class Watchdog:
    """Ends this process when something takes longer than `seconds`; a context manager around all that a worker does."""

    def __init__(self, folder: Path, rank: int, seconds: float) -> None:
        self.folder, self.rank, self.seconds = folder, rank, seconds
        self._main = threading.get_ident()
        # What is being done, how long it may take and since when: one value, since the thread reads them at any moment.
        self._now: tuple[str, float, float] = ("its start", max(seconds, UNSTEADY_S), time.monotonic())
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def step(self, number: int) -> None:
        """An optimizer step begins, and may take `seconds`."""
        self._now = (f"step {number}", self.seconds, time.monotonic())

    def other(self, doing: str) -> None:
        """Something else begins, which goes to the disk."""
        self._now = (doing, max(self.seconds, UNSTEADY_S), time.monotonic())

    def beat(self) -> None:
        """What is being done goes on."""
        doing, allowed, _ = self._now
        self._now = (doing, allowed, time.monotonic())

    def __enter__(self) -> Watchdog:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.seconds / 4)):
            doing, allowed, since = self._now
            if time.monotonic() - since > allowed:
                try:
                    self._leave_word(doing)
                finally:  # a disk that takes no word must not keep the worker
                    os._exit(EXIT)

    def _leave_word(self, doing: str) -> None:
        frame = sys._current_frames().get(self._main)
        calls = [f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in traceback.extract_stack(frame)]
        word = {"doing": doing, "in": calls[-1] if calls else "", "waits": _waits(calls)}
        (self.folder / f"stuck-{self.rank}.json").write_text(json.dumps(word))


def _waits(calls: list[str]) -> bool:
    return any(name in call for call in calls[-4:] for name in _WAITING)


def blame(folder: Path, workers: int) -> str | None:
    """Who did not answer, from the words that the others left; None if nobody gave up waiting."""
    words = {}
    for file in folder.glob("stuck-*.json"):
        with contextlib.suppress(json.JSONDecodeError):  # a disk that was full took a part
            words[int(file.stem.removeprefix("stuck-"))] = json.loads(file.read_text())
    if not words:
        return None
    silent = [rank for rank in range(workers) if rank not in words]
    busy = silent or [rank for rank, word in words.items() if not word["waits"]] or sorted(words)
    where = [f"in {words[rank]['in']}" if rank in words else "without a sign of life" for rank in busy]
    doing = next((words[rank]["doing"] for rank in busy if rank in words), next(iter(words.values()))["doing"])
    others = ", ".join(str(rank) for rank in sorted(words) if rank not in busy)
    named = ", ".join(f"{rank} ({place})" for rank, place in zip(busy, where, strict=True))
    return f"training worker {named} did not finish {doing}" + (f", while {others} waited for it" if others else "")
