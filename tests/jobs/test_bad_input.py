"""What goes wrong before or during a run: a clear error, a non-zero exit, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.run import INTERRUPTED
from tests.conftest import write_lines

SFTFILTER = str(Path(sys.executable).parent / "sftfilter")


def _cli(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SFTFILTER, *arguments], capture_output=True, text=True, timeout=400, env=os.environ | env, check=False
    )


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_help_and_validate(tiny_spec: Callable[..., Path]) -> None:
    shown = _cli("--help").stdout
    assert all(command in shown for command in ("validate", "run", "submit", "score", "decide", "inspect", "schema"))
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = _cli("validate", str(tiny_spec()))
    assert done.returncode == 0, done.stderr
    assert "4 arms, 3 students to train" in done.stdout
    took = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Seconds of CPU, which other tests beside this one do not lengthen: one, where nothing heavy is imported.
    assert took.ru_utime + took.ru_stime - began.ru_utime - began.ru_stime < 5


def test_bash_completes_commands() -> None:
    """As a user's shell does: what `--show-completion` prints is evaluated, and asked for words that begin so."""
    asked = "COMP_WORDS=(sftfilter va); COMP_CWORD=1; _sftfilter_completion sftfilter; echo completed: ${COMPREPLY[@]}"
    script = f'eval "$(sftfilter --show-completion)"; {asked}'
    env = os.environ | {"PATH": f"{Path(SFTFILTER).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=400, env=env, check=False)
    assert done.stdout.splitlines()[-1:] == ["completed: validate"], done.stdout + done.stderr


def test_unknown_key_exits_2_without_traceback(tiny_spec: Callable[..., Path]) -> None:
    done = _cli("validate", str(tiny_spec(basemodel="x")))
    assert done.returncode == 2
    assert "did you mean 'base_model'" in done.stderr
    assert "Traceback" not in done.stderr


def test_schema_is_json_schema() -> None:
    assert set(json.loads(_cli("schema").stdout)["discriminator"]["mapping"]) >= {"experiment", "score"}
    schema = json.loads(_cli("schema", "experiment").stdout)
    assert schema["properties"]["kind"]["const"] == "experiment"
    wrong = _cli("schema", "experment")
    assert wrong.returncode != 0 and "did you mean 'experiment'?" in wrong.stderr


def test_missing_file(tiny_spec: Callable[..., Path]) -> None:
    done = _cli("run", str(tiny_spec(prompts={"kind": "jsonl", "path": "none.jsonl"})))
    assert done.returncode == 3
    assert "file not found" in done.stderr and "none.jsonl" in done.stderr


def test_missing_base_model_folder(tiny_spec: Callable[..., Path]) -> None:
    done = _cli("run", str(tiny_spec(base_model="/nowhere/model")))
    assert done.returncode == 3
    assert "'/nowhere/model' does not exist" in done.stderr


def test_swap_partner_missing_names_the_prompts(tiny_spec: Callable[..., Path]) -> None:
    path = tiny_spec()
    partner = path.parent / "C.jsonl"
    first_in_s = next(row for row in _lines(partner) if row["kind"] == "date")
    write_lines(partner, [row for row in _lines(partner) if row != first_in_s])
    done = _cli("run", str(path))
    assert done.returncode == 3
    assert "swap to teacher 'C': 1 of" in done.stderr and "prompt ids" in done.stderr


def test_an_empty_completion_exceeds_the_budget(tiny_spec: Callable[..., Path]) -> None:
    path = tiny_spec()
    teacher = path.parent / "T.jsonl"
    write_lines(teacher, [dict(_lines(teacher)[0], completion=""), *_lines(teacher)[1:]])
    done = _cli("run", str(path))
    assert done.returncode == 3
    assert "T.jsonl, row 1, completion: empty" in done.stderr


def test_a_training_prompt_that_is_an_evaluation_prompt_stops_the_run(tiny_spec: Callable[..., Path]) -> None:
    path = tiny_spec()
    prompts, asked = path.parent / "train.jsonl", _lines(path.parent / "heldout.jsonl")[0]
    write_lines(prompts, [*_lines(prompts), asked])
    done = _cli("run", str(path))
    assert done.returncode == 3
    assert "1 of 13 training texts overlap with 1 of 6 evaluation prompts" in done.stderr
    assert all(part in done.stderr for part in ("train.jsonl", "heldout.jsonl", asked["prompt"][:40], "action: drop"))
    assert "Traceback" not in done.stderr


def test_more_workers_than_the_machine_has(tiny_spec: Callable[..., Path]) -> None:
    done = _cli("run", str(tiny_spec(execution={"workers": 4096})))
    assert done.returncode == 4
    assert "lower execution.workers" in done.stderr


def test_port_taken_is_said_before_anything_is_trained(tiny_spec: Callable[..., Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = _cli("run", str(tiny_spec(serving={"port": port})))
    assert done.returncode == 4
    assert str(port) in done.stderr and "serving.port" in done.stderr
    assert "training  " not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_disk_full_names_the_folder(tiny_spec: Callable[..., Path], short_tmp: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(short_tmp)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this sandbox does not allow mounting a tmpfs")
    try:
        done = _cli("run", str(tiny_spec(results=str(short_tmp))))
    finally:
        subprocess.run(["umount", str(short_tmp)], check=True)
    assert done.returncode == 4
    assert f"no space left while writing to {short_tmp}" in done.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_runs_end_cleanly(tiny_spec: Callable[..., Path], sent: signal.Signals) -> None:
    path = tiny_spec()
    with subprocess.Popen(
        [SFTFILTER, "run", str(path)], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        seen = ""
        while "scores" not in seen:
            line = process.stderr.readline()
            assert line, f"ended early: {seen}"
            seen += line
        process.send_signal(sent)
        rest = process.communicate(timeout=120)[1]
    assert process.returncode == INTERRUPTED
    assert "finished stages are kept" in rest
    assert "Traceback" not in rest
