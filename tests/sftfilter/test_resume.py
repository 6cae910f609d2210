"""Nothing trained is lost beyond the last checkpoint, and what comes of it is the same, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sftfilter import progress, train_stop, training
from sftfilter.artifacts import Store
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import MachineError, TrainingError
from sftfilter.models import load_tokenizer
from sftfilter.train_cluster import RunStorage
from sftfilter.train_stop import SAVES_S, Stopped, allow, outlast, stoppable, wished
from sftfilter.training_settings import Execution
from tests.chaos.fault_table import FaultRow, keep
from tests.conftest import REPOSITORY
from tests.training_case import FULL, LORA, Case, Killer, furthest, kill_one, same_bits, tiny_llama, weights

STEPS = 40
LONG = {
    name: settings.model_copy(update={"epochs": None, "steps": STEPS})
    for name, settings in (("full", FULL), ("lora", LORA))
}

LONGER = LONG["lora"].model_copy(update={"steps": 400})  # of 10 ms each: what is to happen at one does before the last


@pytest.fixture(scope="module")
def ray_once() -> Iterator[None]:
    """Ray for the whole file; Ray Train looks at its workers ten times as often as by default."""
    from cluster.local import local_ray
    from jobs.run import worker_env

    os.environ |= {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "mine",
    }
    with local_ray(worker_env(), cpus=2):
        yield
    for name in ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del os.environ[name]


@pytest.fixture(scope="module")
def case(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    chat = ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief.")
    folder = tmp_path_factory.mktemp("resume")
    return Case(tiny_llama(folder / "model", chat), chat, folder)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A real S3 protocol server on loopback; Ray's processes find its credentials in the environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="me", aws_secret_access_key="mine"
    )
    client.create_bucket(Bucket="runs")
    yield f"s3://runs/mine?endpoint_override={url}"
    moto.stop()


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.parametrize(
    ("zero_stage", "arms", "remote"),
    [(1, ["lora"], True), (2, ["full"], False), (3, ["full", "lora"], False)],
    ids=["1-s3", "2", "3"],
)
def test_a_killed_worker_costs_nothing_but_time(
    ray_once: None, case: Case, bucket: str, zero_stage: int, arms: list[str], remote: bool
) -> None:
    """Arms, each interrupted once by SIGKILL, against the same that are not."""
    runs = [case.run(name, LONG[name]) for name in arms]
    into = f"broken-{zero_stage}"
    killer = Killer(bucket if remote else case.storage / into, arms, kill_one)
    settings: dict[str, Any] = {"workers": 2, "zero_stage": zero_stage, "micro_batch_tokens": 60}
    saving = {"checkpoint_every_steps": 5, "checkpoints": bucket if remote else None}
    broken = case.train(runs, into, killer, **settings, **saving)
    whole = case.train(runs, f"whole-{zero_stage}", **settings)
    assert set(killer.resumed()) == set(arms)
    for name, step in killer.resumed().items():
        assert 0 < step <= killer.struck_at[name][0] + 10
        assert same_bits(broken[name], whole[name])
        losses = [(artifact[name].path / "losses.json").read_text() for artifact in (broken, whole)]
        assert losses[0] == losses[1]
        assert len(json.loads(losses[0])) == STEPS
        fault = f"SIGKILL of a training worker, ZeRO {zero_stage}{', checkpoints on s3://' if remote else ''}, {name}"
        again = f"{max(0, killer.struck_at[name][0] - step)} steps of {STEPS}"
        keep(FaultRow(fault, "training alone", again, round(killer.recovered[name], 1), True))
    died = [event for event in killer.events if "worker 1 died" in event.get("note", "")]
    assert len(died) == len(arms), "and people are told"
    assert not killer.checkpoints(), "none is left behind"


@pytest.mark.ray
@pytest.mark.chaos
def test_another_number_of_workers_goes_on_and_another_stage_is_refused(ray_once: None, case: Case) -> None:
    run = case.run("full", LONG["full"])
    killer = Killer(case.storage / "moved", ["full"], kill_one)
    settings: dict[str, Any] = {"zero_stage": 3, "checkpoint_every_steps": 5, "max_failures": 0}
    message = r"worker 1 died \(arm full, after step \d+ of 40\).*lower execution\.micro_batch_tokens.*last checkpoint"
    with pytest.raises(TrainingError, match=message):
        case.train([run], "moved", killer, workers=2, **settings)
    message = r"step \d+ that was written with execution\.zero_stage: 3, .* stage 2: set it back .* or delete"
    with pytest.raises(TrainingError, match=message):
        case.train([run], "moved", killer, workers=2, **settings | {"zero_stage": 2})

    (found,) = killer.checkpoints()
    state = Path(found, "state.json").read_text()
    half = Path(found).with_name("checkpoint_2099-01-01_00-00-00.000000")  # later, and never finished
    half.mkdir()
    (half / "state.json").write_text(state.replace('"step": ', '"step": 3'))
    moved = case.train([run], "moved", killer, workers=3, cpus_per_worker=0.5, **settings)
    assert killer.resumed()["full"] == json.loads(state)["step"] > 0
    assert furthest(weights(moved["full"]), case.oracle(run)[0]) < 1e-5


@pytest.mark.ray
@pytest.mark.chaos
def test_a_killed_driver_goes_on_from_the_last_checkpoint(ray_once: None, case: Case) -> None:
    """SIGKILL to the process that started it all, Ray with it; the same call goes on, here in another cluster.

    Its workers take more steps before they are ended (a step takes 10 ms), but it is not they who finish the arm.
    """
    steps = 300
    runs = [case.run("full", FULL.model_copy(update={"epochs": None, "steps": steps}))]
    into = "driver"
    killer = Killer(case.storage / into, ["full"], lambda _: os.kill(driver.pid, signal.SIGKILL))
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.training_driver", case.model, str(case.storage), into, str(steps)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.startswith("{"):  # and not what libraries print
            killer(json.loads(line))
    assert driver.wait() == -signal.SIGKILL
    resumed = case.train(runs, into, killer, workers=2)
    assert 0 < killer.resumed()["full"] < steps
    assert same_bits(resumed["full"], case.train(runs, f"{into}-whole", workers=2)["full"])
    assert furthest(weights(resumed["full"]), case.oracle(runs[0])[0]) < 1e-5


@pytest.mark.ray
@pytest.mark.chaos
def test_a_lost_node_leaves_fewer_workers_that_go_on(case: Case) -> None:
    """Two nodes with a worker each; one is removed in mid-arm, and the other finishes alone."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.lost_node", case.model, str(case.storage), "node", str(STEPS)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    assert told["groups"] == [2, 1]
    assert told["resumed"]["full"] > 0
    assert told["furthest"] < 1e-5
    again = f"{max(0, told['struck_at'] - told['resumed']['full'])} steps of {STEPS}"
    note = f"weights within {told['furthest']:.0e} of a plain loop's: one worker is left of two"
    keep(FaultRow("node removed, no other left", "training alone", again, round(told["recover_s"], 1), note=note))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell starts what runs in its background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.ray
def test_a_stop_saves_the_arm_at_its_last_step(ray_once: None, ctrl_c: None, case: Case) -> None:
    """Ctrl-C in mid-arm, where no checkpoint is due for long: the same call goes on at that step, bit for bit."""
    events: list[Mapping[str, Any]] = []

    def interrupt(event: Mapping[str, Any]) -> None:
        events.append(event)
        if event.get("step") == 3 and not any("stopped" in e or "resumed" in e for e in events):
            os.kill(os.getpid(), signal.SIGINT)

    runs = [case.run("lora", LONGER)]
    with pytest.raises(KeyboardInterrupt):
        case.train(runs, "stopped", interrupt, checkpoint_every_s=None)
    (saved,) = [event["at"] for event in events if "stopped" in event]
    reached = max(event["step"] for event in events if "step" in event)
    assert 3 <= saved == reached < LONGER.steps, "no step is taken once the arm is saved, and none is lost"
    done = case.train(runs, "stopped", interrupt, checkpoint_every_s=None)["lora"]
    assert [event["at"] for event in events if "resumed" in event] == [saved]
    assert same_bits(done, case.train(runs, "not-stopped")["lora"])


@pytest.mark.ray
def test_a_sweeps_trial_that_is_stopped_keeps_its_checkpoint(ray_once: None, case: Case) -> None:
    """Trials train outside the main thread, and the driver leaves word in the file."""
    events: list[Mapping[str, Any]] = []

    def stop(event: Mapping[str, Any]) -> None:
        events.append(event)
        if event.get("step") == 3:
            (case.storage / "trial" / "training" / "stop").write_text("yes")

    runs = [case.run("lora", LONGER)]
    with ThreadPoolExecutor(1) as thread, pytest.raises(Stopped):
        thread.submit(case.train, runs, "trial", stop, checkpoint_every_s=None).result()
    (saved,) = [event["at"] for event in events if "stopped" in event]
    done = case.train(runs, "trial", events.append, checkpoint_every_s=None)["lora"]
    assert [event["at"] for event in events if "resumed" in event] == [saved]
    assert len(json.loads((done.path / "losses.json").read_text())) == LONGER.steps


def test_a_second_interrupt_waits_for_nothing(ctrl_c: None, tmp_path: Path) -> None:
    """And the first one waits only for a group that works."""
    allow(tmp_path)
    let_go = threading.Event()
    progress.append(tmp_path / "progress.jsonl", {"workers": [{"rank": 0}]})
    began = time.monotonic()
    for again in (1.0, 2.0):
        threading.Timer(again, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        stoppable(let_go.wait, tmp_path)
    assert 2 <= time.monotonic() - began < SAVES_S / 2
    assert wished(tmp_path)
    progress.append(tmp_path / "progress.jsonl", {"ended": True})
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stoppable(let_go.wait, tmp_path)
    assert time.monotonic() - began < 2
    let_go.set()


def test_clusters_with_equal_paths_keep_apart_in_a_bucket_that_they_share(tmp_path: Path) -> None:
    def named(checkpoints: str | None) -> str:
        execution = Execution(checkpoints=checkpoints)
        return training._place_name(tmp_path / "runs" / "x", Store(tmp_path / "runs" / "artifacts"), execution)

    def another_disk() -> None:
        shutil.rmtree(tmp_path / "runs")

    first, local = named("s3://bucket"), named(None)
    assert named("s3://bucket") == first, "a run that is taken up finds its checkpoints"
    another_disk()
    second = named("s3://bucket")
    assert second != first and second.startswith("train-x-")
    assert named(None) == local != second, "on a disk of its own the path is enough"
    another_disk()
    named(None)
    assert not (tmp_path / "runs" / "x").exists()

    one, other = (RunStorage(str(tmp_path / "bucket"), name) for name in (first, second))
    for place in (one, other):
        Path(place.folder, "checkpoint_1").mkdir(parents=True)
    one.tidy(lambda note: None)
    one.clear()
    assert Path(other.folder, "checkpoint_1").is_dir() and not Path(one.folder).exists()


def test_what_killed_runs_leave_is_dropped(tmp_path: Path) -> None:
    place = RunStorage(str(tmp_path), "run")
    said: list[str] = []
    place.tidy(lambda note: said.append(note["note"]))
    folder = tmp_path / "run"
    for name in ("checkpoint_1", "checkpoint_2"):
        (folder / name).mkdir(parents=True)
    snapshot = folder / "checkpoint_manager_snapshot.json"
    snapshot.write_text(json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_1"}]}))
    place.tidy(lambda note: said.append(note["note"]))
    assert {path.name for path in folder.glob("checkpoint_?")} == {"checkpoint_1"}, "the other one was half-written"
    assert not said

    snapshot.write_text(snapshot.read_text()[:-9])  # Ray Train was killed while it wrote
    place.tidy(lambda note: said.append(note["note"]))
    assert not list(folder.iterdir())
    assert "damaged; the arm in progress starts over" in said[0]
    snapshot.write_text(json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_gone"}]}))
    place.tidy(lambda note: said.append(note["note"]))
    assert not snapshot.exists()
    place.clear()
    assert not folder.exists()


def test_a_dying_run_may_still_list_what_it_just_wrote(tmp_path: Path) -> None:
    """Its driver was killed a moment ago; its controller names the checkpoint after the next run has tidied up."""
    folder = tmp_path / "run"
    now = datetime.now()
    fresh, stale = (f"checkpoint_{made:%Y-%m-%d_%H-%M-%S.%f}" for made in (now, now - timedelta(hours=1)))
    for name in (fresh, stale):
        (folder / name).mkdir(parents=True)
    place = RunStorage(str(tmp_path), "run")
    place.tidy(lambda note: None)
    assert [path.name for path in folder.iterdir()] == [fresh]
    place.clear()
    assert not folder.exists()


def test_workers_of_a_killed_driver_are_outlasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, let_go = tmp_path / "progress.jsonl", threading.Event()
    outlast(tmp_path)  # nobody was here
    progress.append(written, {"step": 1})

    def write_on() -> None:
        while not let_go.wait(0.2):
            progress.append(written, {"step": 2})

    monkeypatch.setattr(train_stop, "_QUIET_S", 1.0)
    writer = threading.Thread(target=write_on)
    writer.start()
    threading.Timer(1.0, let_go.set).start()
    began = time.monotonic()
    outlast(tmp_path)
    assert not writer.is_alive() and time.monotonic() - began > 1.5

    monkeypatch.setattr(train_stop, "_DYING_S", 0.0)
    progress.append(written, {"step": 3})
    with pytest.raises(MachineError, match="written to by workers of a run that was killed: end their cluster"):
        outlast(tmp_path)
    progress.append(written, {"ended": True})
    outlast(tmp_path)


def test_a_shard_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """torch would load it and say nothing."""
    import torch

    from sftfilter.resume import _check_whole

    shard = tmp_path / "shards" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    shard.parent.mkdir()
    torch.save({"weights": torch.ones(10_000)}, shard)
    _check_whole(tmp_path, "checkpoint_1")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert not torch.load(shard)["weights"].eq(1).all()
    with pytest.raises(TrainingError, match=r"checkpoint_1: zero_pp_\S+ is damaged \(\S+\): delete the checkpoint"):
        _check_whole(tmp_path, "checkpoint_1")
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(TrainingError, match="is damaged"):
        _check_whole(tmp_path, "checkpoint_1")


def test_shards_with_code_in_them_are_not_run(tmp_path: Path) -> None:
    """A pickle that calls something is refused, though DeepSpeed asks torch for no restriction."""
    import pickle

    import torch

    from sftfilter.resume import _tensors_only

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "made"),))

    torch.save({"evil": Evil()}, tmp_path / "evil.pt")
    with _tensors_only(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "evil.pt", weights_only=False)
    assert not (tmp_path / "made").exists()


@pytest.mark.ray
@pytest.mark.chaos
def test_a_worker_that_hangs_is_named(ray_once: None, case: Case) -> None:
    """SIGSTOP: the process lives and says nothing more."""
    killer = Killer(case.storage / "hangs", ["full"], lambda workers: os.kill(workers[1]["pid"], signal.SIGSTOP))
    message = r"training worker 1 \(without a sign of life\) did not finish step \d+, while 0 waited for it.*collective_timeout_s"
    with pytest.raises(TrainingError, match=message):
        case.train(
            [case.run("full", LONG["full"])],
            "hangs",
            killer,
            checkpoint_every_steps=5,
            collective_timeout_s=15,
            max_failures=0,
        )
