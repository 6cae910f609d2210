"""Storage that is full, fails, is closed or slow; and clocks that jump."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sftfilter.errors import MachineError
from tests.chaos.fault_table import FaultRow
from tests.chaos.fetch import BINDING, CLOCK, FUSE, TOOLS
from tests.chaos.study import Run, Study
from tests.conftest import REPOSITORY

FULL, FAILS = "disk full, then room made, rerun", "writes fail (EIO), then work, rerun"
CLOSED, SLOW = "disk closed (EROFS), opened, rerun", "storage 20 ms slower at every write"
JUMPS = "clock jumps by +1 h, -2 h, +1 h"
NAMED = "it named the disk"


def _tool(name: str) -> Path:
    """A fetched file."""
    if not (TOOLS / name).exists():
        pytest.skip(f"needs {Path(name).name}, which `python -m tests.chaos.fetch` could not fetch here")
    return TOOLS / name


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user may not mount file systems")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.mark.chaos(fault=FULL, during="training")
def test_a_full_disk(studies: Callable[..., Study], judged: Callable[..., None], tmp_path: Path) -> None:
    """It fills up while students are trained; somebody makes room, and the same command goes on."""
    with _mounted(tmp_path / "disk", "size=2g") as disk:
        study = studies("training", root=disk / "runs")
        run = study.start()
        run.until(study.checkpoint)
        used = os.statvfs(disk)
        left = (used.f_blocks - used.f_bfree) * used.f_frsize
        _remount(disk, f"size={left + 2**20}")
        ended = _ends(run, f"no space left while writing to {disk}")
        _remount(disk, "size=2g")
        run, recovered = _goes_on(study)
        lost = _steps(study)
        run.finish()
        judged(study, FaultRow(FULL, "training", lost, recovered, note=NAMED, ended_s=ended))


def _ends(run: Run, told: str) -> float:
    """Seconds until a run that met a bad disk ends, as it should."""
    struck = time.monotonic()
    code = run.end()
    assert code == MachineError.exit_code, run.said()[-3000:]
    assert told in run.said(), run.said()[-3000:]
    return time.monotonic() - struck


def _goes_on(study: Study) -> tuple[Run, float]:
    """Run again; and the seconds until a student is trained on."""
    old, began = study.workers(), time.monotonic()
    again = study.start()
    again.until(lambda: study.workers() not in (old, []) and any("step" in event for event in study.training()))
    return again, time.monotonic() - began


def _steps(study: Study) -> str:
    at = [event["at"] for event in study.training() if "resumed" in event]
    return f"went on from step {at[0]}" if at else "one arm from its beginning"


@contextmanager
def _faulty(folder: Path) -> Iterator[tuple[Path, Callable[..., None]]]:
    """A file system in user space that can be told to fail or to be slow."""
    library, binding = _tool(FUSE), _tool(BINDING)
    behind, disk, control = folder / "behind", folder / "disk", folder / "control.json"
    behind.mkdir()
    disk.mkdir()

    def tell(**faults: Any) -> None:
        partial = control.with_suffix(".partial")
        partial.write_text(json.dumps(faults))
        partial.replace(control)

    tell()
    command = [sys.executable, "-m", "tests.chaos.faulty_fs", str(behind), str(disk), str(control)]
    env = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{binding.parent}", "FUSE_LIBRARY_PATH": str(library)}
    with open(folder / "fs.log", "wb") as log:
        server = subprocess.Popen(command, env=env, cwd=REPOSITORY, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not os.path.ismount(disk):
            assert server.poll() is None and time.monotonic() < deadline, (folder / "fs.log").read_text()
            time.sleep(0.1)
        yield disk, tell
    finally:
        subprocess.run(["umount", "-l", disk], check=False)
        server.terminate()
        server.wait(20)


@pytest.mark.chaos(fault=f"{SLOW}; {FAILS}; {CLOSED}", during="training, evaluation")
def test_a_slow_disk_that_fails(studies: Callable[..., Study], judged: Callable[..., None], tmp_path: Path) -> None:
    """Every write, rename and flush waits 20 ms. In mid-training they fail with EIO, while students are asked with
    EROFS, as on a disk that the kernel has closed; each time it is mended, and the same command goes on."""
    with _faulty(tmp_path) as (disk, tell):
        study = studies("training", root=disk / "runs")
        tell(delay_s=0.02)
        run = study.start()
        run.until(study.checkpoint)
        tell(errno=errno.EIO)
        ended = _ends(run, "Input/output error")
        tell(delay_s=0.02)
        run, recovered = _goes_on(study)
        rows = [FaultRow(FAILS, "training", _steps(study), recovered, note=NAMED, ended_s=ended)]

        run.until(lambda: study.made("answers"))
        tell(errno=errno.EROFS)
        ended = _ends(run, "Read-only file system")
        tell(delay_s=0.02)
        made, began = study.made("answers", "loss"), time.monotonic()
        run = study.start()
        run.until(lambda: study.made("answers", "loss") > made)
        recovered = time.monotonic() - began
        run.finish()
        lost = "answers of the model that was asked, 18 at most"
        rows.append(FaultRow(CLOSED, "evaluation", lost, recovered, note=NAMED, ended_s=ended))
        judged(study, *rows, FaultRow(SLOW, "training, evaluation", "nothing"))


@pytest.mark.chaos(fault=JUMPS, during="scores, training, evaluation")
def test_a_clock_that_jumps(
    studies: Callable[..., Study], judged: Callable[..., None], reference: Study, tmp_path: Path
) -> None:
    """An hour forth while scoring, two hours back while training, an hour forth while asking."""
    library, clock = _tool(CLOCK), tmp_path / "clock"

    def jump(seconds: int) -> None:
        partial = clock.with_suffix(".partial")
        partial.write_text(f"{seconds:+d}\n")
        partial.replace(clock)

    jump(0)
    env = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DISABLE_SHM": "1",
        "NO_FAKE_STAT": "1",
    }
    study = studies("scores", env=env)
    began = time.monotonic()
    run = study.start()
    run.until(study.scored.exists)
    jump(3600)
    run.until(study.checkpoint)
    jump(-3600)
    run.until(lambda: study.made("answers"))
    jump(0)
    run.finish()
    took, usual = time.monotonic() - began, float((reference.folder / "seconds").read_text())
    note = "libfaketime; without the rollouts, which the undisturbed run made"
    row = FaultRow(JUMPS, "scores, training, evaluation", "nothing", note=note, whole_s=took, undisturbed_s=usual)
    judged(study, row)
