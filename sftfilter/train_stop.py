"""Stopping a training: the driver leaves word in a file, and the workers save the arm at the next step and end.

The file is there from the start and is read anew each time, since a network file system may go on for a minute without
telling of a file that is new.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sftfilter.disk import disk_errors
from sftfilter.errors import MachineError
from sftfilter.progress import Tail

SAVES_S = 50
"""Seconds that a stop waits for checkpoints; a job that is stopped is killed after 60."""
_WORD = "stop"
_QUIET_S, _DYING_S = 3.0, 90.0
"""Workers that wrote nothing for so long are gone; those of a lost head live for a minute."""


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """The training was asked to stop, and what it has done is saved; raised on every worker alike."""


def allow(work: Path) -> None:
    """Before workers start: they are to go on."""
    with disk_errors(work):
        (work / _WORD).write_text("")


def wished(work: Path) -> bool:
    """Whether the workers whose files lie in this folder are to stop."""
    try:
        return bool((work / _WORD).read_text())
    except FileNotFoundError:
        return False


def outlast(work: Path) -> None:
    """Wait until workers of a driver that was killed a moment ago are gone: until Ray notices, they train and write on.

    Raises:
        MachineError: they are not.
    """
    written = work / "progress.jsonl"
    tail, ended, deadline = Tail(written), False, time.monotonic() + _DYING_S
    while written.exists() and abs(time.time() - written.stat().st_mtime) < _QUIET_S:
        for event in tail.events():
            ended = "ended" in event
        if ended:
            return
        if time.monotonic() > deadline:
            raise MachineError(
                f"{written} is written to by workers of a run that was killed: end their cluster, then run again"
            )
        time.sleep(0.2)


def stoppable(fit: Callable[[], object], work: Path) -> None:
    """Call `fit`; while it runs, an interrupt of this process lets the workers save first. A second one does not.

    Outside the main thread no interrupt arrives, so there `fit` is just called.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if threading.current_thread() is not threading.main_thread():
        fit()
        return
    failed: list[BaseException] = []
    done = threading.Event()  # an interrupted `Thread.join` calls the thread finished

    def run() -> None:
        try:
            fit()
        except BaseException as error:  # whatever it is, it belongs to the caller's thread
            failed.append(error)
        finally:
            done.set()

    # In a thread of its own, where Ray Train leaves the handling of Ctrl-C alone.
    threading.Thread(target=run, name="fit", daemon=True).start()
    try:
        done.wait()
    except KeyboardInterrupt:
        save_and_stop([work], done.is_set)
        raise
    if failed:
        raise failed[0]


def save_and_stop(folders: Sequence[Path], over: Callable[[], bool] = lambda: False) -> None:
    """Have the workers of some trainings save and end; returns when they have, or after `SAVES_S`.

    Args:
        folders: where their files lie; one without workers is left alone.
        over: whether waiting is of no use any more.
    """
    tails = {folder: Tail(folder / "progress.jsonl") for folder in folders}
    works = dict.fromkeys(folders, False)
    for folder in folders:
        if folder.is_dir():
            (folder / _WORD).write_text("yes")
    deadline = time.monotonic() + SAVES_S
    while time.monotonic() < deadline and not over():
        for folder, tail in tails.items():
            for event in tail.events():
                works[folder] = "ended" not in event and (works[folder] or "workers" in event)
        if not any(works.values()):
            return
        time.sleep(0.2)
