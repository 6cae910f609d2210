"""Something done again and again in the background while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` every so many seconds, and no more once the block has ended, which waits for a call under way."""
    done = threading.Event()

    def again() -> None:
        while not done.wait(seconds):
            act()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
