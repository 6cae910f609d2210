"""A lock that a killed process leaves behind where DeepSpeed's compiled parts are kept, and that would hang all after it.

torch marks a build, and a look at one, with a file named `lock`, and waits for as long as the file is there, even when
nobody builds any more.
"""

from __future__ import annotations

import time
from pathlib import Path

ABANDONED_S = 120
"""A lock that no process of this machine has open is a leftover when it is this old; building takes 50 s."""


def await_builds(folder: Path, abandoned_s: float = ABANDONED_S) -> list[Path]:
    """Wait while something is built below `folder`; locks that were left behind are removed, and answered."""
    broken: list[Path] = []
    for lock in folder.glob("*/lock"):
        while (age := _age(lock)) is not None:
            if age >= abandoned_s and not _held(lock):
                lock.unlink(missing_ok=True)
                broken.append(lock)
                break
            time.sleep(min(1.0, abandoned_s / 10))
    return broken


def _age(lock: Path) -> float | None:
    """Seconds, or None if it is gone."""
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None


def _held(lock: Path) -> bool:
    """Whether a process of this machine has it open, as torch does while it builds."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if entry.samefile(lock):
                return True
        except OSError:  # the process ended, or is not ours to look at
            continue
    return False
