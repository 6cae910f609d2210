"""One run of a name at a time: two that wrote into the same folder would mix their results.

The kernel's lock on an open file says who holds the folder, and goes with its process however that ends. Storage that
several machines share may keep such locks for each machine alone, or a dead machine's for minutes. So the holder also
touches a record every few seconds, and one from another machine counts as alive for as long as the record's time keeps
changing, whatever any clock says.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import secrets
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jobs.processes import boot_id, of_this_process, process_started
from sftfilter.disk import disk_errors
from sftfilter.errors import MachineError

LOCK, HOLDER = ".lock", "holder.json"
BEAT_S = 5.0
_SILENT_BEATS = 5
"""A record of another machine that stayed the same for so long is a dead run's."""
_PATIENCE_BEATS = 36
"""A server of files may keep a dead machine's lock for a while: NFS does so for 90 s."""


@dataclass(frozen=True)
class Holder:
    """Who works in a run's folder.

    Attributes:
        boot: tells machines apart that have the same name, and a machine before and after a restart.
        pid_started: seconds since the epoch.
    """

    command: str
    host: str = field(default_factory=lambda: os.uname().nodename)
    boot: str = field(default_factory=boot_id)
    pid: int = field(default_factory=os.getpid)
    pid_started: float | None = field(default_factory=lambda: process_started(os.getpid()))
    since: str = field(default_factory=lambda: f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC")
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def here(self) -> bool:
        """Whether it runs, or ran, under this kernel."""
        return (self.host, self.boot) == (os.uname().nodename, boot_id())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} (`{self.command}`)"


def silent_s(folder: Path) -> float | None:
    """Seconds since whoever holds a run's folder gave a sign of life, by this machine's clock; None where nobody does."""
    beat = _beat(folder)
    return None if beat is None else max(0.0, time.time() - beat / 1e9)


@contextlib.contextmanager
def hold_run(folder: Path, command: str, beat_s: float = BEAT_S) -> Iterator[None]:
    """Keep every other run out of a folder until the block ends. What a killed run left is taken over.

    Args:
        folder: the run's own; made when missing.
        command: what runs, for whoever is refused.
        beat_s: seconds between two signs of life.

    Raises:
        MachineError: another run works there, or, at the end of the block, took the folder over meanwhile.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        locked = _take(handle, folder, beat_s)
        me = Holder(command)
        with disk_errors(folder):
            _write(folder, me)
        if not locked:  # somebody else may have come to the same conclusion
            time.sleep(beat_s / 2)
            if (found := _read(folder)) and found.token != me.token:
                raise _refusal(folder, found)
        heart = _Heart(folder, me, beat_s)
        try:
            yield
        except KeyboardInterrupt:
            heart.check()
            raise
        finally:
            heart.stop()
        heart.check()
    finally:
        os.close(handle)


def _take(handle: int, folder: Path, beat_s: float) -> bool:
    """Wait until the folder is certain to be nobody's; answers whether the kernel's lock is held.

    Raises:
        MachineError: it is somebody's.
    """
    began, seen, unchanged = time.monotonic(), None, time.monotonic()
    while True:
        locked, found, beat = _lock(handle), _read(folder), _beat(folder)
        if found is None:
            if locked is not False:
                return bool(locked)
        elif found.here:
            if locked or (locked is None and not of_this_process(found.pid, found.pid_started)):
                return bool(locked)
            raise _refusal(folder, found)
        elif seen is None:
            print(f"{folder.name}: looking whether {found} is alive", file=sys.stderr)
        elif beat != seen:
            raise _refusal(folder, found)
        elif locked is not False and time.monotonic() - unchanged > _SILENT_BEATS * beat_s:
            return bool(locked)
        if time.monotonic() - began > _PATIENCE_BEATS * beat_s:
            raise _refusal(folder, found)
        if beat != seen:
            seen, unchanged = beat, time.monotonic()
        time.sleep(beat_s / 10)


def _refusal(folder: Path, found: Holder | None) -> MachineError:
    return MachineError(
        f"the run '{folder.name}' in {folder.parent} is at work already: {found or 'a process that began just now'}. "
        f"Wait for it (sftfilter status {shlex.quote(folder.name)}), end it (sftfilter stop {shlex.quote(folder.name)}), "
        "or give this one a `name` of its own: what both need is made once"
    )


def _lock(handle: int) -> bool | None:
    """Whether the kernel gave us the lock; None where the file system has none to give."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
    return True


def _read(folder: Path) -> Holder | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads((folder / HOLDER).read_text()))
    return None


def _beat(folder: Path) -> int | None:
    """The record's time in nanoseconds; it is opened, since a client of NFS looks again only then."""
    with contextlib.suppress(OSError), open(folder / HOLDER) as record:
        return os.fstat(record.fileno()).st_mtime_ns
    return None


def _write(folder: Path, holder: Holder) -> None:
    partial = folder / f".{HOLDER}.{holder.token}"
    partial.write_text(json.dumps(asdict(holder)))
    partial.replace(folder / HOLDER)


class _Heart:
    """Touches the record until it is stopped; ends the process's work when the record is another's."""

    def __init__(self, folder: Path, me: Holder, beat_s: float) -> None:
        self.folder, self.me, self.beat_s = folder, me, beat_s
        self.successor: Holder | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beats, name="run lock", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Beat no more, and remove the record if it is ours."""
        self._stopped.set()
        self._thread.join()
        found = _read(self.folder)
        if found and found.token == self.me.token:
            with contextlib.suppress(OSError):
                (self.folder / HOLDER).unlink()

    def check(self) -> None:
        """Raise MachineError when another run has taken over."""
        if self.successor:
            raise MachineError(
                f"this run showed no sign of life for too long (was its machine suspended, or its storage away?), and "
                f"{self.successor} has taken the run '{self.folder.name}' over: leave it to that one"
            )

    def _beats(self) -> None:
        while not self._stopped.wait(self.beat_s):
            found = _read(self.folder)
            if found and found.token != self.me.token:
                self.successor = found
                os.kill(os.getpid(), signal.SIGTERM)  # which ends a run as Ctrl-C does
                return
            with contextlib.suppress(OSError):  # storage that is full or away shows itself where results are written
                os.utime(self.folder / HOLDER) if found else _write(self.folder, self.me)
