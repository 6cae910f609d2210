"""Scripts that start Ray on nodes, run with programs in the place of Slurm's, SkyPilot's and Ray's: what is called, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from cluster.targets import TARGETS
from cluster.workload import Machines
from jobs.compile import compile_spec
from tests.conftest import REPOSITORY

SPECS = REPOSITORY / "jobs" / "specs"

# As the real ones in what matters here: srun answers SIGTERM with SIGKILL for its task; symmetric-run calls `ray` by name,
# knows no SIGTERM, ends every Ray of the node when its command has ended, and ends with 0 if Ray did not start.
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do shift; done
SLURM_NODEID=0 "$@" &
task=$!
echo $task > "$STUB/task.pid"
trap 'kill -KILL $task' TERM
wait $task
"""
RAY = """#!/bin/bash
echo "ray $*" >> "$STUB/log"
case "$1" in
  symmetric-run)
    echo "patience $RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT" >> "$STUB/log"
    ray start --head || { ray stop; exit 0; }
    while [[ "$1" != -- ]]; do shift; done
    shift
    "$@"
    code=$?
    ray stop
    exit $code ;;
  start) [[ ! -e "$STUB/no-ray" ]] || { rm "$STUB/no-ray"; exit 1; } ;;
esac
"""
DRIVER = """#!/bin/bash
echo "python $*" >> "$STUB/log"
[[ -e "$STUB/long" ]] || exit 0
trap 'kill $!; /bin/sleep 0.5; echo kept >> "$STUB/log"; exit 130' TERM
/bin/sleep 60 &
touch "$STUB/running"
wait $!
"""


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _slurm(folder: Path) -> subprocess.Popen[str]:
    """The batch script on one node, as `sbatch` starts it: in an environment that was not activated."""
    for name, text in {"ray": RAY, "python": DRIVER}.items():
        _program(folder / "venv" / "bin" / name, text)
    programs = {"srun": SRUN, "scontrol": "#!/bin/bash\necho node-1\n", "hostname": "#!/bin/bash\necho 10.1.2.3 ::1\n"}
    for name, text in programs.items():
        _program(folder / "bin" / name, text)
    (folder / "token").touch(mode=0o600)
    script = folder / "job.sh"
    script.write_text(TARGETS["slurm"](compile_spec(SPECS / "score.yaml", [], Machines())))
    number = os.getpid()
    env = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "STUB": str(folder), "SPEC": "my spec.yaml"}
    env |= {"VENV": str(folder / "venv"), "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "SLURM_JOB_ID": str(number)}
    env |= {"SLURM_JOB_NODELIST": "node-1", "SLURM_JOB_NUM_NODES": "1"}
    return subprocess.Popen(["bash", script], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def test_slurm_finds_its_programs_without_an_activated_environment(tmp_path: Path) -> None:
    job = _slurm(tmp_path)
    said, _ = job.communicate(timeout=30)
    assert job.returncode == 0, said
    symmetric, patience, start, driver, stop = _log(tmp_path)
    port = 20000 + os.getpid() % 20000
    assert symmetric.startswith(f"ray symmetric-run --address 10.1.2.3:{port} --min-nodes 1 --disable-usage-stats -- ")
    assert patience == "patience 600" and start == "ray start --head"
    assert driver == "python -m jobs.run my spec.yaml" and stop == "ray stop"


def test_slurms_signal_reaches_the_driver_and_leaves_it_its_time(tmp_path: Path) -> None:
    (tmp_path / "long").touch()
    job = _slurm(tmp_path)
    deadline = time.monotonic() + 20
    while not (tmp_path / "running").exists():
        assert time.monotonic() < deadline, _log(tmp_path)
        time.sleep(0.02)
    os.kill(int((tmp_path / "task.pid").read_text()), signal.SIGTERM)
    job.terminate()  # scancel signals the batch shell too
    said, _ = job.communicate(timeout=30)
    assert _log(tmp_path)[-2:] == ["kept", "ray stop"], "the driver ended by itself, and Ray after it"
    assert job.returncode == 130, said


def test_slurm_says_that_ray_did_not_start(tmp_path: Path) -> None:
    (tmp_path / "no-ray").touch()
    job = _slurm(tmp_path)
    said, _ = job.communicate(timeout=30)
    assert job.returncode == 1 and "error: Ray did not start on" in said


@pytest.mark.parametrize("rank", [0, 1])
def test_skypilots_nodes_start_a_ray_of_their_own(tmp_path: Path, rank: int) -> None:
    work = compile_spec(SPECS / "score.yaml", [], Machines())
    (task,) = yaml.safe_load_all(TARGETS["skypilot"](work))
    for name, text in {"ray": RAY, "python": DRIVER, "sleep": "#!/bin/bash\n"}.items():
        _program(tmp_path / "sftfilter" / "bin" / name, text)
    if rank:
        (tmp_path / "no-ray").touch()  # the head is not there at the first try
    env = {"HOME": str(tmp_path), "STUB": str(tmp_path), "PATH": "/usr/bin:/bin", "SPEC": "my.yaml"}
    env |= {"SKYPILOT_NODE_IPS": "10.9.8.7\n10.9.8.6", "SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NUM_NODES": "2"}
    done = subprocess.run(["bash", "-c", task["run"]], env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    common = "ray start --disable-usage-stats --dashboard-agent-listen-port=52465"
    if rank:
        assert _log(tmp_path) == [f"{common} --address 10.9.8.7:6479"] * 2
        return
    ports = "--port=6479 --dashboard-port=8275 --ray-client-server-port=10101"
    assert _log(tmp_path) == [
        f"{common} --head --node-ip-address=10.9.8.7 {ports}",
        "python -m cluster.wait_for_nodes 2",
        "python -m jobs.run my.yaml",
    ]
