"""Progress events: a JSON line each, written by one process and followed by another while it is written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def append(path: str | Path, event: Mapping[str, Any]) -> None:
    """Add one event."""
    with open(path, "a") as handle:
        handle.write(json.dumps(dict(event)) + "\n")


@contextmanager
def follow(path: Path, on_event: Callable[[Mapping[str, Any]], None], every: float = 0.5) -> Iterator[None]:
    """Call `on_event` for every line that is added to `path` while the block runs."""
    done = threading.Event()

    def tail() -> None:
        offset = 0
        while True:
            last_look = done.wait(every)
            if path.exists():
                with open(path) as handle:
                    handle.seek(offset)
                    for line in handle:
                        if not line.endswith("\n"):
                            break
                        offset += len(line.encode())
                        on_event(json.loads(line))
            if last_look:
                return

    thread = threading.Thread(target=tail, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
