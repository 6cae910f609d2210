"""Processes that were written down with their number and the moment they began."""

from __future__ import annotations

import contextlib
from pathlib import Path


def of_this_process(pid: int, started: float | None) -> bool:
    """Whether a process that was written down still runs (and is not another one with its number)."""
    now = process_started(pid)
    return now is not None and started is not None and abs(now - started) < 1


def process_started(pid: int) -> float | None:
    """When a living process began, in seconds since the epoch; None if there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        # One that has ended and whose parent has not asked for its exit code still has a number.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def boot_id() -> str:
    """Of this kernel since it was started; containers on one machine share it. Empty where the system has none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
