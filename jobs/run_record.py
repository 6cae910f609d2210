"""What a run has done so far, as structured lines that outlive it: `stages.jsonl` and `progress.json` in its folder.

A line is one event (`run`, `stage`, `stage_done`, `artifact`, `trained`, `rate`, `note`, `cost`, `end`) with its time,
the run's id, and the stage it belongs to. Lines are only ever added, so a kill loses the event under way and nothing
else. `progress.json` is written over: how far the work of this moment is. Inside a Ray job both are mirrored into the session's log folder, where
`sftfilter status --address` reads them through Ray's own log service.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.processes import process_started
from sftfilter import run_log
from sftfilter.disk import disk_errors
from sftfilter.private import redact

if TYPE_CHECKING:
    from jobs.run_metrics import RunMetrics

EVENTS, PROGRESS = "stages.jsonl", "progress.json"
_EVERY_S = 2.0
_LOGGER = logging.getLogger("sftfilter.run")


@dataclass
class RunRecord:
    """Writes one run's events.

    Attributes:
        folder: the run's own; made when missing.
        mirror: folder and prefix of a second copy, which nothing depends on.
        metrics: told of everything, for Prometheus.
    """

    folder: Path
    mirror: tuple[Path, str] | None = None
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    metrics: RunMetrics | None = None
    _shown_at: float = -_EVERY_S

    def write(self, event: str, **fields: Any) -> None:
        """Add a line.

        Raises:
            MachineError: the disk is full, or may not be written.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = redact(json.dumps({"time": now, "run": self.run, "event": event} | fields)) + "\n"
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            _append(self.folder / EVENTS, line)
        if self.mirror:
            with contextlib.suppress(OSError):
                _append(self.mirror[0] / f"{self.mirror[1]}.{EVENTS}", line)
        _log(event, fields)
        if self.metrics:
            self.metrics.event(event, fields)

    def progress(self, **fields: Any) -> None:
        """Say how far the work of this moment is; calls that follow each other too fast are left out."""
        if time.monotonic() - self._shown_at < _EVERY_S:
            return
        self._shown_at = time.monotonic()
        if self.metrics:
            self.metrics.progress(fields)
        text = json.dumps({"run": self.run, "time": time.time()} | fields)
        with contextlib.suppress(OSError):  # the next one will do
            _replace(self.folder / PROGRESS, text)
            if self.mirror:
                _replace(self.mirror[0] / f"{self.mirror[1]}.{PROGRESS}", text)

    @contextlib.contextmanager
    def whole_run(self, **fields: Any) -> Iterator[None]:
        """The events `run` and `end` around a block, the latter with how it ended."""
        process = {"pid": os.getpid(), "pid_started": process_started(os.getpid()), "host": os.uname().nodename}
        self.write("run", cwd=str(Path.cwd()), **process, **fields)
        began = time.monotonic()
        status, error = "finished", None
        try:
            yield
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except BaseException as problem:
            status, error = "failed", str(problem) or type(problem).__name__
            raise
        finally:
            with contextlib.suppress(Exception):  # the block's own error matters more
                self.write("end", status=status, seconds=round(time.monotonic() - began, 2), error=error)


def _log(event: str, fields: dict[str, Any]) -> None:
    """The event as a line of the driver's log (see `sftfilter.run_log`)."""
    if event == "stage":
        run_log.at(fields["stage"])
    level = {"note": logging.WARNING, "end": logging.INFO if fields.get("error") is None else logging.ERROR}
    # `name` is a word of Python's own in a log record; the run's name stands in every line anyway.
    given = {key: value for key, value in fields.items() if key != "name"}
    _LOGGER.log(level.get(event, logging.INFO), str(fields.get("text") or event), extra={"event": event, **given})
    if event == "stage_done":
        run_log.at(None)


def parse_events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events in a record's lines; one that was cut off by a kill is passed over."""
    events = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            if isinstance(event, dict) and {"time", "run", "event"} <= event.keys():
                events.append(event)
    return events


def _append(path: Path, line: str) -> None:
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        torn = size and os.pread(handle, 1, size - 1) != b"\n"  # a kill in mid-write, or a disk that was full
        data = b"\n" * bool(torn) + line.encode()
        while data:  # a disk that is nearly full takes a part
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
