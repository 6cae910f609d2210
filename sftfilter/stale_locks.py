"""Locks that killed processes left in torch's folder of compiled extensions.

torch takes a lock file while it loads an extension, and whoever comes next waits for it to go, without a limit and
without a word. A process that is killed in those seconds leaves it behind, and every later training would wait for ever.
"""

from __future__ import annotations

import time
from pathlib import Path

STALE_S = 900.0
"""Compiling the one file that is compiled takes about 50 s."""


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
