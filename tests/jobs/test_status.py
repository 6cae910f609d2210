"""Runs on this machine: recorded as they go, shown, stopped and taken up again, whatever ended them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from jobs.console import Stages
from jobs.run import readable_errors
from jobs.run_lock import HOLDER, Holder
from jobs.run_record import EVENTS, PROGRESS, RunRecord
from jobs.status import local_status, status_lines
from sftfilter.errors import DataError, SpecError

ABOUT = {"name": "r", "kind": "score", "command": "sftfilter run spec.yaml"}


def _child(root: Path) -> subprocess.Popen[str]:
    """A process that records a run, is in its second stage, and waits."""
    code = (
        "import pathlib, signal, sys\nfrom jobs.console import Stages\nfrom jobs.run_record import RunRecord\n"
        "from jobs.run import sigterm_as_ctrl_c\nsigterm_as_ctrl_c()\n"
        f"record = RunRecord(pathlib.Path({str(root)!r}) / 'r')\n"
        f"with record.whole_run(**{ABOUT!r}):\n stages = Stages(record=record)\n"
        " with stages.stage('rollouts', 'read'): pass\n"
        " with stages.stage('scores', 'lexicon'), stages.bar(40, 'lexicon on T') as bar:\n"
        "  bar.advance(10)\n  print('waits', flush=True)\n  signal.pause()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout and child.stdout.readline() == "waits\n"
    return child


def _cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ, capture_output=True, text=True, timeout=200, check=False)


def test_status_and_stop_of_a_run_on_this_machine(tmp_path: Path) -> None:
    child = _child(tmp_path / "runs")
    try:
        status = local_status(tmp_path / "runs", "r")
        assert (status.state, status.here) == ("running", True)
        assert status.stages["rollouts"].done and status.stages["scores"].seconds is None
        assert status.progress and (status.progress["done"], status.progress["total"]) == (10, 40)
        assert any("lexicon on T: 10 of 40" in line for line in status_lines(status))
        stopped = _cli("stop", "r", cwd=tmp_path)
        assert stopped.returncode == 0 and stopped.stdout.rstrip().endswith("interrupted"), stopped.stderr
        child.wait(10)
    finally:
        child.kill()
        child.wait()
    assert "not finished" in "\n".join(status_lines(local_status(tmp_path / "runs", "r")))
    assert "does not run: interrupted" in _cli("stop", "r", cwd=tmp_path).stdout
    assert _cli("list", cwd=tmp_path).stdout.split()[:2] == ["r", "interrupted"]


def test_a_killed_run_is_told_from_one_that_runs(tmp_path: Path) -> None:
    child = _child(tmp_path / "runs")
    child.send_signal(signal.SIGKILL)
    child.wait()
    with open(tmp_path / "runs" / "r" / EVENTS, "a") as record:
        record.write('{"time": "2026-11-24T00:00:00+00:00", "ru')  # a line that the kill cut off
    status = local_status(tmp_path / "runs", "r")
    assert status.state == "ended without a word" and status.progress is None
    assert any("sftfilter resume r" in line for line in status_lines(status))


def test_only_the_last_run_counts(tmp_path: Path) -> None:
    for number in range(2):
        record = RunRecord(tmp_path / "r")
        with pytest.raises(DataError, match="broken"), record.whole_run(**ABOUT):
            record.write("note", stage="", text=f"of run {number}")
            raise DataError("broken")
    status = local_status(tmp_path, "r")
    assert (status.state, status.error, status.notes) == ("failed", "broken", ["of run 1"])


def test_names_of_runs_that_are_not_there(tmp_path: Path) -> None:
    with RunRecord(tmp_path / "first").whole_run(**ABOUT):
        pass
    with pytest.raises(SpecError, match="did you mean 'first'"):
        local_status(tmp_path, "frist")
    done = _cli("status", "nothing", "--results", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2 and "there are: first" in done.stderr


def test_secrets_are_blotted_out_of_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789abcdef")
    with RunRecord(tmp_path / "r").whole_run(**ABOUT | {"command": "sftfilter run s.yaml --set x=sk-0123456789abcdef"}):
        pass
    written = (tmp_path / "r" / EVENTS).read_text()
    assert "sk-0123" not in written and "[SOME_API_KEY]" in written


def test_secrets_are_blotted_out_of_the_console_and_of_tracebacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789abcdef")
    stages = Stages()
    with stages.stage("scores", "with sk-0123456789abcdef"), stages.bar(3, "rows"):
        stages.say("the judge said sk-0123456789abcdef")
        stages.console.print("and sk-0123456789abcdef", markup=False)
    with pytest.raises(SystemExit) as ended, readable_errors():
        raise RuntimeError(f"a library said {os.environ['SOME_API_KEY']}")
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "Traceback" in said and "RuntimeError: a library said [SOME_API_KEY]" in said
    assert "sk-0123" not in said and said.count("[SOME_API_KEY]") == 4


def test_resume_repeats_the_command_where_it_was_given(tmp_path: Path) -> None:
    """With a spec that fails at once, so that no Ray has to start: the error proves what was run, and where."""
    work = tmp_path / "work"
    work.mkdir()
    now = time.time()
    event = {"time": "2026-11-24T00:00:00+00:00", "run": "a", "event": "run", "cwd": str(work), "pid": 1, "host": "x"}
    (tmp_path / "runs" / "r").mkdir(parents=True)
    end = {"time": event["time"], "run": "a", "event": "end", "status": "failed", "seconds": 1, "error": "e"}
    told = event | ABOUT | {"pid_started": now, "command": "sftfilter run gone.yaml --set a.b=1"}
    (tmp_path / "runs" / "r" / EVENTS).write_text(json.dumps(told) + "\n" + json.dumps(end) + "\n")
    done = _cli("resume", "r", cwd=tmp_path)
    assert done.returncode == 2 and f"in {work}: sftfilter run gone.yaml" in done.stderr
    assert "gone.yaml: No such file" in done.stderr
    (tmp_path / "runs" / "r" / EVENTS).write_text(
        json.dumps(told | {"command": "rm -rf /"}) + "\n" + json.dumps(end) + "\n"
    )
    done = _cli("resume", "r", cwd=tmp_path)
    assert done.returncode == 2 and "repeat that" in done.stderr, "a record is data: only our own commands are repeated"


def test_resume_refuses_a_spec_that_has_changed_since(tmp_path: Path) -> None:
    """With a job that needs no Ray, and fails for want of results: the record is there, and the work is told apart."""
    spec = tmp_path / "spec.yaml"
    spec.write_text("kind: report\nname: r\nof: [one]\n")
    assert _cli("run", "spec.yaml", "--set", "error_budget=0.5", cwd=tmp_path).returncode == 3
    again = _cli("resume", "r", cwd=tmp_path)
    assert again.returncode == 3 and "'one'" in again.stderr, "the same work is gone on with"
    began = (tmp_path / "runs" / "r" / EVENTS).read_text()
    for changed in ("kind: report\nname: r\nof: [two]\n", "kind: report\nname: other\nof: [one]\n"):
        spec.write_text(changed)
        refused = _cli("resume", "r", cwd=tmp_path)
        assert refused.returncode == 2, refused.stderr
        assert (
            "`sftfilter run spec.yaml --set error_budget=0.5` or a file that it names is not what r ran"
            in refused.stderr
        )
    assert (tmp_path / "runs" / "r" / EVENTS).read_text() == began and not (tmp_path / "runs" / "other").exists()
    spec.write_text("kind: report\nname: r\nof: [two]\nworker_hour_price: 2\n")
    assert "'two'" in _cli("run", "spec.yaml", cwd=tmp_path).stderr
    spec.write_text("kind: report\nname: r\nof: [two]\n")
    assert _cli("resume", "r", cwd=tmp_path).returncode == 3, "a price is no part of the work"


def _elsewhere(root: Path, silent_s: float, **told: object) -> None:
    """The record of a run that was started on another machine, and has not ended by its own word."""
    event = {
        "time": "2026-11-24T00:00:00+00:00",
        "run": "a",
        "event": "run",
        "cwd": str(root),
        "pid": 1,
        "host": "other",
    }
    (root / "runs" / "r").mkdir(parents=True, exist_ok=True)
    (root / "runs" / "r" / EVENTS).write_text(json.dumps(event | ABOUT | {"pid_started": 1.0} | told) + "\n")
    holder = root / "runs" / "r" / HOLDER
    holder.write_text(json.dumps(asdict(Holder("sftfilter run", host="other", boot="another"))))
    beat = time.time() - silent_s
    os.utime(holder, (beat, beat))


def test_a_run_that_was_killed_on_another_machine_can_be_taken_up(tmp_path: Path) -> None:
    _elsewhere(tmp_path, 3.0, command="sftfilter run gone.yaml")
    alive = local_status(tmp_path / "runs", "r")
    assert alive.state == "running" and "on other, whose last sign of life is 3 s old" in "\n".join(status_lines(alive))
    refused = _cli("resume", "r", cwd=tmp_path)
    assert refused.returncode == 2 and "runs already (process 1 on other, heard of" in refused.stderr
    _elsewhere(tmp_path, 300.0, command="sftfilter run gone.yaml")
    assert local_status(tmp_path / "runs", "r").state == "ended without a word"
    taken = _cli("resume", "r", cwd=tmp_path)
    assert taken.returncode == 2 and "gone.yaml: No such file" in taken.stderr


def test_an_eval_can_be_taken_up(tmp_path: Path) -> None:
    _elsewhere(tmp_path, 300.0, command="sftfilter eval none.yaml", kind="eval")
    done = _cli("resume", "r", cwd=tmp_path)
    assert done.returncode == 2 and "none.yaml: No such file" in done.stderr


def test_students_that_are_trained_are_named(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "r")
    with record.whole_run(**ABOUT):
        record.write("trained", stage="training", arm="all-T-s0", steps=8, loss=1.0)
    assert "  trained: all-T-s0 (8 steps)" in status_lines(local_status(tmp_path, "r"))


def test_progress_of_training_counts_steps_and_those_of_before_the_kill(tmp_path: Path) -> None:
    stages = Stages(record=RunRecord(tmp_path / "r"))
    step = {"arm": "all-T-s0", "steps": 8, "loss": 1.5, "tokens_per_s": 90.0, "at": time.time()}
    with stages.stage("training", "students"), stages.bar(16, "students") as bar:
        bar.training({"resumed": "all-T-s0", "at": 3})
        bar.training(step | {"step": 4})
        assert bar.done == 4
        bar.training(step | {"step": 1, "arm": "all-C-s0"})
        assert bar.done == 5
    progress = json.loads((tmp_path / "r" / PROGRESS).read_text())
    assert (progress["unit"], progress["done"], progress["total"]) == ("all-T-s0", 3, 16), "the next is too soon"
