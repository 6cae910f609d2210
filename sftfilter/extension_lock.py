"""Where DeepSpeed's compiled parts are kept, and the lock that a killed process leaves there, which would hang all after it.

torch marks a build, and a look at one, with a file named `lock`, and waits for as long as the file is there, even when
nobody builds any more.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from sftfilter.config import stable_hash
from sftfilter.models import cache_dir

ABANDONED_S = 120
"""A lock that no process of this machine has open is a leftover when it is this old; building takes 50 s."""
STALE_S = 900.0
"""One that is this old is a leftover, whoever has it open and on whatever machine."""


def extensions_dir() -> Path:
    """`$TORCH_EXTENSIONS_DIR`, or a folder of this Python environment's own in the cache.

    torch compiles again whenever the paths of the files that are included change, so environments that shared a folder
    would take turns at compiling the same.
    """
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(given) if given else cache_dir() / "torch_extensions" / stable_hash(sys.prefix, 8)


def clear_stale_locks(folder: Path) -> list[str]:
    """Remove the locks below a folder of extensions that are older than any compilation; answers a line for each."""
    lines = []
    for lock in sorted(folder.glob("*/lock")):
        try:
            age = time.time() - lock.stat().st_mtime
            if age < STALE_S:
                continue
            lock.unlink()
        except OSError:  # somebody else was faster, or it is another user's, and then that user's runs say so
            continue
        lines.append(f"removed a lock that a killed process left {age / 60:.0f} minutes ago: {lock}")
    return lines


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
