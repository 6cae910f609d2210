"""Sweeps that are struck: a driver that is killed, trials that die. What is finished stays, and no student is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from jobs.spec import load_spec
from sftfilter.artifacts import MARKER
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def sweep(tiny_spec: Callable[..., Path], tiny_model: str, tmp_path: Path) -> Callable[..., Path]:
    """A sweep over the tiny experiment on a random model: two students for each learning rate, one worker each."""

    def write(rates: list[float], **changes: Any) -> Path:
        training = {"steps": 12, "batch": 8}
        tiny_spec(
            base_model=tiny_model, execution={"workers": 1}, capability=None, training=training, arms=ARMS, roles=ROLES
        )
        spec = {"kind": "sweep", "name": "struck", "experiment": "spec.yaml", "results": str(tmp_path / "runs")}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(spec | {"space": {"training.learning_rate": rates}} | changes))
        return path

    return write


ARMS = {"base": {}, "all-T": {"teacher": "T"}, "all-C": {"teacher": "C"}}
ROLES = {"original": "all-T", "alternate": "all-C", "base": "base"}


def _students(runs: Path) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in (runs / "artifacts").glob(f"student-*/{MARKER}")}


def _until(true: Callable[[], Any], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_killed_driver_is_gone_on_with(sweep: Callable[..., Path], tmp_path: Path) -> None:
    path, runs = sweep([1e-4, 3e-4, 1e-3], concurrency=1), tmp_path / "runs"
    command = [sys.executable, "-m", "jobs.cli", "run", str(path)]
    given: dict[str, Any] = {"cwd": REPOSITORY, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, start_new_session=True, **given) as driver:
        _until(lambda: len(_students(runs)) >= 2 or driver.poll() is not None)
        driver.kill()
        said = driver.communicate()[0]
    made = _students(runs)
    assert 2 <= len(made) < 6, said
    results = json.loads(_finished(command, given, runs))
    now = _students(runs)
    assert {name: now[name] for name in made} == made, "a finished student was trained again"
    counts = results["counts"]
    assert counts["students"] == 6 and counts["failed"] == 0
    # A trial outlives its driver by a moment, in which its student may be finished.
    assert counts["reused"] >= len(made) and counts["trained"] == 6 - counts["reused"]


def _finished(command: list[str], given: dict[str, Any], runs: Path) -> str:
    done = subprocess.run(command, check=False, **given)
    assert done.returncode == 0, done.stdout
    return (runs / "struck" / "results.json").read_text()


@contextlib.contextmanager
def _first_trial_killed() -> Iterator[list[int]]:
    """Kill the process of the first trial that this process's Ray starts."""
    killed: list[int] = []
    over = threading.Event()

    def strike() -> None:
        while not over.wait(0.05) and not killed:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error, IndexError):
                    if process.cmdline()[0].startswith("ray::ImplicitFunc"):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        break

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_a_trial_that_dies_is_tried_again_as_often_as_the_spec_says(
    local_ray: None, sweep: Callable[..., Path]
) -> None:
    from jobs.run import run_spec

    with _first_trial_killed() as killed:
        lost = run_spec(load_spec(sweep([1e-4], retries=0, concurrency=1)), "sftfilter run sweep.yaml")
    assert killed and lost["counts"]["failed"] == 1 and lost["counts"]["trained"] == 1
    with _first_trial_killed() as killed:
        kept = run_spec(load_spec(sweep([3e-4], retries=1, concurrency=1)), "sftfilter run sweep.yaml")
    assert killed and kept["counts"]["failed"] == 0 and kept["counts"]["trained"] == 2
