"""Progress events: a JSON line each, written by one process and followed by another while it is written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sftfilter.disk import disk_errors
from sftfilter.repeating import repeating


def append(path: str | Path, event: Mapping[str, Any]) -> None:
    """Add one event.

    Raises:
        MachineError: the disk is full, closed or failing.
    """
    with disk_errors(Path(path).parent), open(path, "a") as handle:
        handle.write(json.dumps(dict(event)) + "\n")


class Tail:
    """Reads what is added to a file, whole lines only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def events(self) -> Iterator[dict[str, Any]]:
        """Those that were added since the last time."""
        if not self.path.exists():
            return
        with open(self.path) as handle:
            handle.seek(self._offset)
            for line in handle:
                if not line.endswith("\n"):
                    break
                self._offset += len(line.encode())
                with contextlib.suppress(json.JSONDecodeError):  # what a killed writer began, and the next went on from
                    yield json.loads(line)


@contextmanager
def follow(path: Path, on_event: Callable[[Mapping[str, Any]], None], every: float = 0.5) -> Iterator[None]:
    """Call `on_event` for every line that is added to `path` while the block runs."""
    added = Tail(path)

    def look() -> None:
        for event in added.events():
            on_event(event)

    try:
        with repeating(every, look):
            yield
    finally:
        look()
