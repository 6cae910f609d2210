"""One spec, launched and watched every way there is, against a real Ray head with its job server and token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.local_nodes import LocalNodes, free_ports, local_nodes
from tests.conftest import REPOSITORY, read_lines, write_lines
from tests.jobs.tls_relay import tls_relay
from tests.scripted_endpoint import Act, say, scripted

BIN = Path(sys.executable).parent
CLI = str(BIN / "sftfilter")
SECRETS = {"JUDGE_KEY": "sk-planted-in-the-environment-1", "UNUSED_TOKEN": "planted-and-named-by-nobody"}
FILE_SECRET = "sk-planted-in-a-mounted-file-2"


@pytest.fixture(scope="module")
def head() -> Iterator[LocalNodes]:
    os.environ |= SECRETS  # the nodes have them, as from a Kubernetes secret
    try:
        with local_nodes(1, cpus=2) as cluster:
            cluster.env["HF_HUB_OFFLINE"] = "1"
            yield cluster
    finally:
        for name in SECRETS:
            del os.environ[name]


def _call(head: LocalNodes, *command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=head.env | env, capture_output=True, text=True, timeout=600, check=False
    )


def _at(head: LocalNodes) -> list[str]:
    return ["--address", head.dashboard]


@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_submit_then_ray_job_submit(
    head: LocalNodes, tiny_spec: Callable[..., Path], tmp_path: Path, short_tmp: Path
) -> None:
    arms = {"base": {}, "all-T": {"teacher": "T"}, "all-C": {"teacher": "C"}}
    roles = {"original": "all-T", "alternate": "all-C", "base": "base"}
    # Results are not below the uploaded folder.
    spec = tiny_spec(results=str(short_tmp), arms=arms, roles=roles, capability=None)
    (tmp_path / "notes.bin").write_bytes(b"x" * 200_000)
    done = _call(head, CLI, "submit", spec.name, *_at(head), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("SUCCEEDED")
    first_lines = done.stdout.splitlines()[:2]
    assert first_lines[0].startswith("uploads 6 files, ") and first_lines[1].split() == ["195.3", "KiB", "notes.bin"]
    results = short_tmp / "tiny" / "results.json"
    first = json.loads(results.read_text())
    assert not all(stage["reused"] for stage in first["stages"])

    plain = [str(BIN / "ray"), "job", "submit", "--address", head.dashboard, "--working-dir", "."]
    done = _call(head, *plain, "--", "python", "-m", "jobs.run", spec.name, "--set", "seeds=[0]", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    second = json.loads(results.read_text())
    assert all(stage["reused"] for stage in second["stages"])
    assert second["spec_hash"] == first["spec_hash"]
    assert head.env["RAY_AUTH_TOKEN"] not in results.read_text() + done.stdout

    told = json.loads(_call(head, CLI, "status", "tiny", "--json", *_at(head), cwd=tmp_path).stdout)
    assert told["status"] == "SUCCEEDED" and told["state"] == "finished"
    assert {"training", "evaluation", "outcome"} <= {stage["name"] for stage in told["stages"] if stage["done"]}
    trait = next(arm for arm in first["arms"] if arm["name"] == "all-T")["traits"]["date_confusion"]
    rates = {rate["model"]: rate["estimate"] for rate in told["rates"]}
    assert rates["all-T-s0"] == next(iter(trait.values()))["estimate"] and "base" in rates
    here = _call(head, CLI, "status", "tiny", "--results", str(short_tmp), cwd=tmp_path)
    assert "rates so far" in here.stdout and "training" in here.stdout and "reused" in here.stdout


def _judged(folder: Path, url: str, results: Path) -> Path:
    """A spec with two judges: the key of one is in the environment, of the other in a file."""
    key = folder.parent / "judge-key"
    key.touch(mode=0o600)
    key.write_text(FILE_SECRET + "\n")
    write_lines(folder / "t.jsonl", read_lines("teacher_doubt.jsonl", 12))
    slow = {"base_url": url, "model": "m", "concurrency": 1}
    spec = {
        "kind": "score",
        "name": "judged",
        "rollouts": {"T": {"kind": "rollouts", "path": "t.jsonl"}},
        "scorers": {
            "by-env": {"kind": "judge", "rubric": "a", "endpoint": slow | {"api_key_env": "JUDGE_KEY"}},
            "by-file": {"kind": "judge", "rubric": "b", "endpoint": slow | {"api_key_file": str(key)}},
        },
        "results": str(results),
    }
    path = folder / "judged.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_stop_resume_and_no_secret_anywhere(head: LocalNodes, tmp_path: Path, short_tmp: Path) -> None:
    folder, pause = tmp_path / "work", [3.0]
    folder.mkdir()

    def script(body: dict[str, Any], nth: int) -> Act:
        return say("SCORE: 3", after=pause[0])

    with scripted(script) as server:
        spec = _judged(folder, server.url, short_tmp)
        submit = [CLI, "submit", spec.name, *_at(head)]
        sent = _call(head, *submit, "--no-wait", cwd=folder)
        assert sent.returncode == 0, sent.stdout + sent.stderr
        _until(lambda: len(server.requests) >= 2)
        again = _call(head, *submit, "--no-wait", cwd=folder)
        assert "runs already" in again.stdout, "the id follows from the work"
        running = _call(head, CLI, "status", "judged", *_at(head), cwd=folder).stdout
        assert "running" in running and "under way" in running, running

        stopped = _call(head, CLI, "stop", "judged", *_at(head), cwd=folder)
        assert stopped.stdout.rstrip().endswith("STOPPED"), stopped.stdout + stopped.stderr
        status = _call(head, CLI, "status", "judged", *_at(head), cwd=folder).stdout
        assert "interrupted" in status and "sftfilter resume judged" in status, status
        followed = _call(head, CLI, "logs", "-f", "judged", *_at(head), cwd=folder)
        assert followed.returncode == 1 and "interrupted: finished stages are kept" in followed.stdout

        asked, pause[0] = len(server.requests), 0.0
        resumed = _call(head, CLI, "resume", "judged", *_at(head), cwd=folder)
        assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr
        assert "reused" in resumed.stdout
        # What was answered before the stop is in the journal; what was under way may be asked once more.
        assert len(server.requests) <= 24 + 1 and asked < 24
        assert set(server.keys) == {f"Bearer {SECRETS['JUDGE_KEY']}", f"Bearer {FILE_SECRET}"}
    listed = _call(head, CLI, "list", *_at(head), cwd=folder).stdout
    assert [line.split()[1] for line in listed.splitlines()[:2]] == ["SUCCEEDED", "STOPPED"]
    spec.write_text(spec.read_text().replace("rubric: b", "rubric: c"))
    changed = _call(head, CLI, "resume", "judged", *_at(head), cwd=folder)
    assert changed.returncode == 2 and "is not what" in changed.stderr

    said = "".join(run.stdout + run.stderr for run in (sent, again, stopped, followed, resumed))
    metadata = _call(head, str(BIN / "ray"), "job", "list", "--address", head.dashboard, cwd=folder).stdout
    assert "judged" in metadata
    _nowhere([*SECRETS.values(), FILE_SECRET], [said, metadata], [short_tmp, head.temp])
    _nowhere([head.env["RAY_AUTH_TOKEN"]], [said, metadata], [short_tmp])


def _nowhere(secrets: list[str], texts: list[str], folders: list[Path]) -> None:
    """Neither in what was said nor in any byte of any file: results, Ray's logs, its packages."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert len(files) > 5
    for secret in secrets:
        assert not any(secret in text for text in texts)
        assert [file for file in files if secret.encode() in _bytes(file)] == []


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.chaos
def test_tls_with_our_own_ca_and_a_dropped_connection(head: LocalNodes, tmp_path: Path, short_tmp: Path) -> None:
    folder, hold = tmp_path / "work", threading.Event()
    folder.mkdir()

    def script(body: dict[str, Any], nth: int) -> Act:
        hold.wait(60)
        return say("SCORE: 3")

    with scripted(script) as server, tls_relay(tmp_path, int(head.dashboard.rpartition(":")[2])) as relay:
        spec = _judged(folder, server.url, short_tmp)
        submit = [CLI, "submit", spec.name, "--set", "name=tls", "--address", relay.url]
        unknown = _call(head, *submit, cwd=folder)
        assert unknown.returncode == 4 and "certificate" in unknown.stderr.lower(), unknown.stderr
        with subprocess.Popen(
            [*submit, "--ca-file", str(relay.ca)],
            cwd=folder,
            env=head.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as following:
            _until(lambda: len(server.requests) >= 1)
            relay.cut(seconds=3)
            _until(lambda: not relay.closed)
            hold.set()
            said, _ = following.communicate(timeout=300)
    assert following.returncode == 0, said
    assert relay.cut_off >= 1 and "connection lost" in said
    assert said.rstrip().endswith("SUCCEEDED")
    marks = [line for line in said.splitlines() if line.startswith("rollouts ")]
    assert len(marks) == 1, f"each line of the log once:\n{said}"


@pytest.mark.ray
def test_a_failed_job_is_a_failure_with_its_reason(
    head: LocalNodes, tiny_spec: Callable[..., Path], tmp_path: Path
) -> None:
    spec = tiny_spec(prompts={"kind": "jsonl", "path": "none.jsonl"})
    done = _call(head, CLI, "submit", spec.name, *_at(head), cwd=tmp_path)
    assert done.returncode == 1
    assert "file not found" in done.stdout
    assert done.stdout.rstrip().endswith("FAILED")
    nobody = _call(head, CLI, "status", "nobody", *_at(head), cwd=tmp_path)
    assert nobody.returncode == 2 and "no job 'nobody'" in nobody.stderr


@pytest.mark.ray
def test_the_repository_itself_can_be_the_working_dir(head: LocalNodes) -> None:
    """What is uploaded leaves out the environment and the results, so it stays far below Ray's limit."""
    plain = [str(BIN / "ray"), "job", "submit", "--address", head.dashboard, "--working-dir", "."]
    check = ["python", "-m", "jobs.cli", "validate", "jobs/specs/quickstart.yaml"]
    done = _call(head, *plain, "--", *check, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "valid. experiment 'quickstart'" in done.stdout


@pytest.mark.ray
def test_without_the_token_or_the_server(head: LocalNodes, tiny_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = tiny_spec()
    submit = [CLI, "submit", spec.name, "--address"]
    done = _call(head, *submit, head.dashboard, cwd=tmp_path, RAY_AUTH_TOKEN="wrong")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr
    done = _call(head, *submit, f"http://127.0.0.1:{free_ports(1)[0]}", cwd=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "no job server at" in done.stderr
