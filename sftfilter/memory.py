"""Peak memory of a run: this process and everything it started, sampled while the block runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class MemoryWatch:
    """The highest sample so far, bytes that no other process shares."""

    peak_bytes: int = 0

    @property
    def peak_gib(self) -> float:
        """GiB."""
        return self.peak_bytes / 2**30


@contextmanager
def watch_memory(every: float = 2.0) -> Iterator[MemoryWatch]:
    """Sample the memory of the whole process tree until the block ends."""
    watch = MemoryWatch(tree_bytes())
    done = threading.Event()

    def sample() -> None:
        while not done.wait(every):
            watch.peak_bytes = max(watch.peak_bytes, tree_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()


def tree_bytes() -> int:
    """Resident bytes of this process and its descendants, less the pages they share with others."""
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        total += memory.rss - getattr(memory, "shared", 0)
    return total
