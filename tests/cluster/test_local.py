"""A Ray of our own: it comes with a token and on loopback, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.local import local_ray
from tests.conftest import REPOSITORY


@pytest.mark.ray
def test_local_ray_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.1.2.3:6379")  # somebody else's cluster
    with local_ray({"MARK": "yes"}, cpus=3):
        import ray
        from ray._common.usage import usage_lib

        (raylet,) = [p for p in psutil.Process().children() if "raylet/raylet" in " ".join(p.cmdline())]
        temp = Path(next(a for a in raylet.cmdline() if a.startswith("--temp_dir=")).removeprefix("--temp_dir="))
        assert ray.cluster_resources()["CPU"] == 3
        assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) >= 32
        assert ray.get(ray.remote(lambda: os.environ["MARK"]).remote()) == "yes"
        assert not usage_lib.usage_stats_enabled(), "what runs here is nobody else's business"
        started = [p for p in psutil.Process().children(recursive=True) if str(temp) in " ".join(p.cmdline())]
        assert started
        dashboard = [p for p in started if "dashboard.py" in " ".join(p.cmdline())]
        assert dashboard and "--host=127.0.0.1" in " ".join(dashboard[0].cmdline())
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
    assert not temp.exists()


@pytest.mark.ray
def test_a_ray_that_does_not_start_is_said_with_what_to_do() -> None:
    starting = "from cluster.local import local_ray\nwith local_ray({}, cpus=2): print('started')"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "0"}
    done = subprocess.run([sys.executable, "-c", starting], env=env, capture_output=True, text=True, check=False)
    assert "MachineError: Ray did not start on this machine (load average" in done.stderr, done.stderr[-2000:]
    assert "started" not in done.stdout
