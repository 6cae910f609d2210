"""Two runs of one name: one works, the other is told who does; a killed one is taken over, from whatever machine."""

from __future__ import annotations

import errno
import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jobs import run_lock
from jobs.run_lock import HOLDER, Holder, hold_run
from sftfilter.errors import MachineError
from tests.conftest import REPOSITORY

BEAT_S = 0.1


def _holding(folder: Path, code: str = "") -> subprocess.Popen[str]:
    """A process that holds a folder and waits; `code` runs before."""
    script = (
        f"import signal\nfrom pathlib import Path\nfrom jobs.run import sigterm_as_ctrl_c, readable_errors\n"
        f"from jobs import run_lock\nfrom jobs.run_lock import Holder, hold_run\n{code}\n"
        f"with readable_errors(), hold_run(Path({str(folder)!r}), 'sftfilter run spec.yaml', {BEAT_S}):\n"
        " print('holds', flush=True)\n while True: signal.pause()\n"
    )
    command = [sys.executable, "-c", script]
    child = subprocess.Popen(command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == "holds\n", child.communicate()[1]
    return child


def _end(child: subprocess.Popen[str], by: int) -> str:
    child.send_signal(by)
    return child.communicate(timeout=30)[1]


def test_the_second_is_told_who_works_and_a_killed_one_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    child = _holding(folder)
    told = rf"the run 'tiny' in {folder.parent} is at work already: process {child.pid} on \S+ since 20.* UTC .*"
    for _ in range(2):
        told_how = told + r"sftfilter run spec\.yaml.*Wait for it .*end it .*`name`"
        with pytest.raises(MachineError, match=told_how), hold_run(folder, "other", BEAT_S):
            pass
    _end(child, signal.SIGKILL)
    assert (folder / HOLDER).exists()
    with hold_run(folder, "mine", BEAT_S):
        assert json.loads((folder / HOLDER).read_text())["command"] == "mine"
        with pytest.raises(MachineError, match="at work already"), hold_run(folder, "again", BEAT_S):
            pass
    assert not (folder / HOLDER).exists()


def test_stop_lets_the_next_one_in(tmp_path: Path) -> None:
    child = _holding(tmp_path)
    assert "interrupted" in _end(child, signal.SIGTERM)
    with hold_run(tmp_path, "next", BEAT_S):
        pass


def _of_another_machine(folder: Path) -> Holder:
    """Write the record of a run elsewhere; it keeps no lock that this kernel knows of, as on much shared storage."""
    folder.mkdir(exist_ok=True)
    other = Holder("sftfilter run", host="node-7", boot="x", pid=4)
    run_lock._write(folder, other)
    return other


def test_another_machines_silent_run_is_taken_over_and_a_living_one_is_not(tmp_path: Path) -> None:
    _of_another_machine(tmp_path / "dead")
    with hold_run(tmp_path / "dead", "mine", BEAT_S):
        pass
    living = tmp_path / "living"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom jobs import run_lock\nfrom jobs.run_lock import Holder\n"
        "folder = Path(sys.argv[1]); folder.mkdir()\n"
        "me = Holder('sftfilter run', host='node-7', boot='x', pid=4)\nrun_lock._write(folder, me)\n"
        f"heart = run_lock._Heart(folder, me, {BEAT_S})\nprint('holds', flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(living)], cwd=REPOSITORY, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        with pytest.raises(MachineError, match="process 4 on node-7"), hold_run(living, "mine", BEAT_S):
            pass
        child.kill()
    with hold_run(living, "mine", BEAT_S):
        pass


def test_a_run_that_was_taken_over_ends_and_says_so(tmp_path: Path) -> None:
    """Its machine was suspended, say; another one has found it silent."""
    child = _holding(tmp_path)
    _of_another_machine(tmp_path)
    assert child.stderr and child.wait(30) == MachineError.exit_code
    assert "process 4 on node-7" in (said := child.stderr.read()) and "leave it to that one" in said
    assert json.loads((tmp_path / HOLDER).read_text())["host"] == "node-7", "the successor's record stays"


def test_storage_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some parallel file systems answer so; then the record alone decides."""
    no_locks = "import errno, fcntl\ndef none(*_): raise OSError(errno.ENOSYS, 'no locks here')\nfcntl.flock = none\n"

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    child = _holding(tmp_path, no_locks)
    with pytest.raises(MachineError, match=f"process {child.pid} on"), hold_run(tmp_path, "mine", BEAT_S):
        pass
    _end(child, signal.SIGKILL)
    with hold_run(tmp_path, "mine", BEAT_S):
        pass


def test_many_at_once_let_one_in(tmp_path: Path) -> None:
    """All of them find the record of a killed run on another machine, and wait out its silence together."""
    _of_another_machine(tmp_path)
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom jobs.run import readable_errors\n"
        "from jobs.run_lock import hold_run\n"
        f"with readable_errors(), hold_run(Path(sys.argv[1]), 'x', {BEAT_S}):\n time.sleep(3)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    children = [subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE) for _ in range(3)]
    codes = sorted(child.wait(60) for child in children)
    assert codes == [0] + [MachineError.exit_code] * 2


@pytest.mark.parametrize("launcher", ["jobs.cli run", "jobs.run"])
def test_a_command_is_refused_before_it_starts_anything(tmp_path: Path, launcher: str) -> None:
    """Both ways to start a run, with a job kind that needs no cluster: nothing of the run that works is touched."""
    report = {"kind": "report", "name": "tiny", "of": ["first"], "results": str(tmp_path / "runs")}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(report))
    child = _holding(tmp_path / "runs" / "tiny")
    try:
        command = [sys.executable, "-m", *launcher.split(), str(tmp_path / "spec.yaml")]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    finally:
        _end(child, signal.SIGKILL)
    assert done.returncode == MachineError.exit_code, done.stderr
    assert f"process {child.pid} on" in done.stderr and "sftfilter stop tiny" in done.stderr
    assert sorted(path.name for path in (tmp_path / "runs" / "tiny").iterdir()) == [".lock", HOLDER]
