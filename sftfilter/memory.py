"""Peak memory of a run: this process and everything it started, sampled while the block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from sftfilter.repeating import repeating


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

    def sample() -> None:
        watch.peak_bytes = max(watch.peak_bytes, tree_bytes())

    with repeating(every, sample):
        yield watch


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
