"""One spec, three ways to launch it, against a real Ray head with its job server and token."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import REPOSITORY

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A running head's job server and the environment that reaches it."""

    address: str
    env: dict[str, str]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    import shutil
    import tempfile

    temp = Path(tempfile.mkdtemp(prefix="h-", dir="/tmp"))
    gcs, dashboard, client, agent, metrics = _free_ports(5)
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "HF_HUB_OFFLINE": "1"}
    env["PATH"] = f"{BIN}{os.pathsep}{env['PATH']}"  # the job's `python`
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={gcs}", f"--temp-dir={temp}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--metrics-export-port={metrics}", "--disable-usage-stats"]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        started = [psutil.Process(process.pid)]
        try:
            address = f"http://127.0.0.1:{dashboard}"
            _wait(address, env["RAY_AUTH_TOKEN"], process)
            yield Head(address, env)
        finally:
            started += started[0].children(recursive=True)
            process.terminate()
            _, alive = psutil.wait_procs(started, timeout=20)
            for left in alive:
                left.kill()
            psutil.wait_procs(alive, timeout=20)
            shutil.rmtree(temp, ignore_errors=True)


def _wait(address: str, token: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "ray start ended"
        try:
            if httpx.get(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"}).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError("the job server did not come up")


def _call(head: Head, *command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=head.env | env, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_submit_then_ray_job_submit(
    head: Head, tiny_spec: Callable[..., Path], tmp_path: Path, short_tmp: Path
) -> None:
    spec = tiny_spec(results=str(short_tmp))  # not below the uploaded folder
    done = _call(head, str(BIN / "sftfilter"), "submit", spec.name, "--address", head.address, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("SUCCEEDED")
    results = short_tmp / "tiny" / "results.json"
    first = json.loads(results.read_text())
    assert not all(stage["reused"] for stage in first["stages"])

    plain = [str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir", "."]
    done = _call(head, *plain, "--", "python", "-m", "jobs.run", spec.name, "--set", "seeds=[0]", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    second = json.loads(results.read_text())
    assert all(stage["reused"] for stage in second["stages"])
    assert second["spec_hash"] == first["spec_hash"]
    assert head.env["RAY_AUTH_TOKEN"] not in results.read_text() + done.stdout


@pytest.mark.ray
def test_a_failed_job_is_a_failure_with_its_reason(head: Head, tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = tiny_spec(prompts={"kind": "jsonl", "path": "none.jsonl"})
    done = _call(head, str(BIN / "sftfilter"), "submit", spec.name, "--address", head.address, cwd=tmp_path)
    assert done.returncode == 1
    assert "file not found" in done.stdout
    assert done.stdout.rstrip().endswith("FAILED")


@pytest.mark.ray
def test_the_repository_itself_can_be_the_working_dir(head: Head) -> None:
    """What is uploaded leaves out the environment and the results, so it stays far below Ray's limit."""
    plain = [str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir", "."]
    check = ["python", "-m", "jobs.cli", "validate", "jobs/specs/quickstart.yaml"]
    done = _call(head, *plain, "--", *check, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "valid. experiment 'quickstart'" in done.stdout


@pytest.mark.ray
def test_without_the_token_or_the_server(head: Head, tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = tiny_spec()
    submit = [str(BIN / "sftfilter"), "submit", spec.name, "--address"]
    done = _call(head, *submit, head.address, cwd=tmp_path, RAY_AUTH_TOKEN="wrong")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr
    done = _call(head, *submit, f"http://127.0.0.1:{_free_ports(1)[0]}", cwd=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "no job server at" in done.stderr


@pytest.mark.ray
def test_the_spec_must_lie_in_the_uploaded_folder(head: Head, tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    spec = tiny_spec()
    submit = [str(BIN / "sftfilter"), "submit", str(spec), "--address", head.address]
    done = _call(head, *submit, cwd=tmp_path / "elsewhere")
    assert done.returncode == 2
    assert "--working-dir" in done.stderr
