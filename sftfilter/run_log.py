"""A run's log: JSON lines with run, stage and arm, one file for each process below `runs/NAME/log`.

Whoever works for a run joins it: the driver at its start, training workers and scoring actors with what the driver
handed them. From then on whatever the process logs, ours from INFO and other libraries' from WARNING, is a line of its
file. Secrets are blotted out. A file that cannot be written loses its lines and stops nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sftfilter.private import redact

FOLDER = "log"
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


@dataclass(frozen=True)
class Told:
    """What a process knows of the run that it works for; travels to workers as it is.

    Attributes:
        folder: of the log, on a disk that all nodes share.
        run: id of this attempt, as in the run's record.
        role: driver, trainer, scorer.
    """

    folder: str
    run: str
    name: str
    role: str
    stage: str | None = None
    arm: str | None = None


_told: Told | None = None


def told() -> Told | None:
    """For a process that this one starts; None where no run is logged."""
    return _told


def join(given: Told | None, role: str) -> None:
    """Log for a run from now on, in this process. A second call changes what is written beside each line."""
    global _told
    if given is None:
        return
    _told = replace(given, role=role)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Lines)]:
        root.removeHandler(handler)
    root.addHandler(_Lines(Path(given.folder) / f"{role}-{os.uname().nodename}-{os.getpid()}.jsonl"))
    logging.getLogger("sftfilter").setLevel(logging.INFO)
    if root.level > logging.WARNING:  # a library that quietens the console raises it for everybody
        root.setLevel(logging.WARNING)


@contextlib.contextmanager
def logged_run(folder: Path, run: str, name: str) -> Iterator[None]:
    """The driver's part in a run's log, while the block runs."""
    global _told
    root = logging.getLogger()
    level = root.level
    join(Told(str(folder / FOLDER), run, name, "driver"), "driver")
    try:
        yield
    finally:
        _told = None
        root.setLevel(level)
        for handler in [handler for handler in root.handlers if isinstance(handler, _Lines)]:
            root.removeHandler(handler)


def at(stage: str | None = None, arm: str | None = None) -> None:
    """Say what the process works at; what is not given is nothing."""
    global _told
    if _told:
        _told = replace(_told, stage=stage or None, arm=arm or None)


class _Lines(logging.Handler):
    """Appends each record to the process's file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith("sftfilter"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, whole or not at all."""
        if _told is None:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line_of(record, _told).encode())
            finally:
                os.close(handle)


def line_of(record: logging.LogRecord, known: Told) -> str:
    """A record as JSON, its time first, so that sorted lines of several files are in order.

    What was given as `extra` stands under its own name; `stage` and `arm` there win over what the process works at.
    """
    when = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
    where = {key: value for key, value in asdict(known).items() if key != "folder"}
    given = [key for key in record.__dict__ if key not in _STANDARD and not key.startswith("_")]  # Ray adds its own
    extra: dict[str, Any] = {key: record.__dict__[key] for key in given}
    line = {"time": when, "level": record.levelname, **where, "host": os.uname().nodename, "pid": os.getpid()}
    line |= {"logger": record.name, "message": record.getMessage()} | extra
    if record.exc_info:
        line["error"] = "".join(traceback.format_exception(*record.exc_info))
    return redact(json.dumps(line, default=str)) + "\n"
