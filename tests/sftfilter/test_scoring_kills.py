"""Scoring that is killed, starved or fed anew: the same table, nothing missing, nothing scored twice without need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftfilter.artifacts import Store
from sftfilter.attempts import MOST
from sftfilter.errors import DataError, MachineError, SpecError
from sftfilter.scoring import ScoringPool, score_rollouts
from tests.conftest import REPOSITORY
from tests.sftfilter.logged_scorer import BATCH, POOL, Logged, Prepared, rollouts, score

ROWS = 600
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    from cluster.local import local_ray
    from jobs.run import worker_env

    with local_ray(worker_env(), cpus=2):
        yield


@pytest.fixture(scope="module")
def undisturbed(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("undisturbed")
    scorer = Logged(log=str(folder / "log"))
    rows = score(folder / "runs", scorer, ROWS)
    assert [row["score"] for row in rows] == [i % 97 for i in range(ROWS)]
    assert sorted(scorer.asked()) == sorted(f"r{i}" for i in range(ROWS))
    assert len({pid for pid, _ in scorer.calls()}) >= 2, "one actor did all the work"
    return rows


def _twice(scorer: Logged) -> int:
    asked = scorer.asked()
    assert set(asked) == {f"r{i}" for i in range(ROWS)}
    return len(asked) - len(set(asked))


def test_a_killed_worker_costs_its_batch(ray_here: None, undisturbed: list[dict], tmp_path: Path) -> None:
    scorer = Logged(log=str(tmp_path / "log"), delay=0.2)
    killed = []

    def kill(rows: int) -> None:
        if rows and not killed:
            killed.append(scorer.calls()[-1][0])
            os.kill(killed[0], signal.SIGKILL)

    store = Store(tmp_path / "runs")
    made = score_rollouts("logged", scorer, rollouts(store, ROWS), store=store, pool=POOL, on_rows=kill)
    assert made.table("scores").to_pylist() == undisturbed
    assert len({pid for pid, _ in scorer.calls()} - {killed[0]}) >= 2, "the dead worker was not replaced"
    assert _twice(scorer) <= BATCH


def test_a_killed_driver_goes_on_from_there(ray_here: None, undisturbed: list[dict], tmp_path: Path) -> None:
    scorer = Logged(log=str(tmp_path / "log"))
    command = [
        sys.executable,
        "-m",
        "tests.sftfilter.logged_scorer",
        str(tmp_path / "runs"),
        scorer.log,
        str(ROWS),
        "0",
    ]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 120
        while len(scorer.calls()) < 8:
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        helpers = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    _, alive = psutil.wait_procs(helpers, timeout=90)
    assert not alive, "the dead driver's helpers did not end by themselves"
    scored = len(set(scorer.asked()))
    assert 0 < scored < ROWS
    assert not list((tmp_path / "runs").glob("scores-*"))

    assert score(tmp_path / "runs", scorer, ROWS) == undisturbed
    assert _twice(scorer) <= 2 * BATCH
    assert not list((tmp_path / "runs").glob(".scores-*")), "the killed run's folder was left behind"


def test_a_killed_preparation_is_done_again_but_not_for_ever(ray_here: None, tmp_path: Path) -> None:
    scorer = Prepared(log=str(tmp_path / "log"), delay=0, deaths=1)
    assert len(score(tmp_path / "runs", scorer, 100)) == 100
    (prepared,) = (tmp_path / "runs").glob("scorer-*")
    assert {path.name for path in prepared.iterdir()} == {"artifact.json", "prepared"}

    never = Prepared(log=str(tmp_path / "other"), delay=0, deaths=99, salt=1)
    with pytest.raises(MachineError, match=f"{MOST} worker processes died .* while preparing Prepared"):
        score(tmp_path / "runs", never, 100)
    assert Path(f"{never.log}.prepared").stat().st_size == MOST


def test_a_row_that_kills_its_worker_ends_the_run(ray_here: None, tmp_path: Path) -> None:
    scorer = Logged(log=str(tmp_path / "log"), delay=0, deadly="r333")
    with pytest.raises(
        MachineError, match=f"{MOST} worker processes died .* while scoring 20 rows of .* from row 320 to"
    ):
        score(tmp_path / "runs", scorer, ROWS)
    assert scorer.asked().count("r333") == MOST
    healed = scorer.model_copy(update={"deadly": None})
    assert len(score(tmp_path / "runs", healed, ROWS)) == ROWS
    assert scorer.asked().count("r333") == MOST + 1


def test_scoring_that_stands_still_is_ended_and_said(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    scorer = Logged(log=str(tmp_path / "log"), delay=12)
    with monkeypatch.context() as impatient:
        impatient.setattr(ray.data.DataContext.get_current(), "execution_no_progress_timeout_s", 4)
        with pytest.raises(MachineError, match=r"scoring has stood still .*run again, what is scored is kept"):
            score(tmp_path / "runs", scorer, 100)
    again = scorer.model_copy(update={"delay": 0})
    assert len(score(tmp_path / "runs", again, 100)) == 100


def test_what_a_worker_cannot_load_is_said_plainly(ray_here: None, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^no such rubric$"):
        score(tmp_path, Logged(log=str(tmp_path / "log"), unusable=True), ROWS)
    import ray

    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline, "the failed run's actors are still there"
        time.sleep(0.2)


def test_a_full_disk_is_named_and_finished_parts_are_kept(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    log = tmp_path / "log"
    # A disk of 3 MB in a mount namespace of its own: nothing is left mounted whatever happens.
    run = [sys.executable, "-m", "tests.sftfilter.logged_scorer", str(disk), str(log), str(ROWS), "60000"]
    script = f"mount -t tmpfs -o size=3m tmpfs {disk} && exec " + " ".join(run)
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount namespaces")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    full, kept, rows = done.stdout.splitlines()[-3:]
    assert full.startswith(f"full: no space left while writing to {disk}") and "free some space" in full
    parts = int(kept.removeprefix("kept: "))
    assert 0 < parts < ROWS / BATCH
    assert rows == f"rows: {ROWS}"
    scorer = Logged(log=str(log))
    assert len(scorer.calls()) <= ROWS / BATCH + 6, "what was kept was scored again"
    assert _twice(scorer) <= 6 * BATCH


def test_only_what_is_new_is_scored(ray_here: None, tmp_path: Path) -> None:
    scorer = Logged(log=str(tmp_path / "log"), delay=0)
    score(tmp_path / "runs", scorer, 100)
    more = score(tmp_path / "runs", scorer, 150)
    assert [row["score"] for row in more] == [i % 97 for i in range(150)]
    assert len(scorer.asked()) == 150

    again = score(tmp_path / "runs", scorer, 150, name="another name")
    assert {row["scorer"] for row in again} == {"another name"}
    assert len(scorer.asked()) == 150, "the same fingerprint was scored twice"

    score(tmp_path / "runs", scorer.model_copy(update={"salt": 1}), 150)
    assert len(scorer.asked()) == 300, "a changed scorer took another's scores"


def test_a_part_of_another_kind_is_named(ray_here: None, tmp_path: Path) -> None:
    scorer = Logged(log=str(tmp_path / "log"), delay=0)
    score(tmp_path, scorer, 100)
    part = sorted(tmp_path.glob("scored/*/*.parquet"))[2]
    whole = part.read_bytes()
    part.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=f"{part.name}: not scores that this version wrote"):
        score(tmp_path, scorer, 101)
    pq.write_table(pa.table({"rollout_id": ["r1"], "value": [1.0]}), part)
    with pytest.raises(DataError, match="its columns are rollout_id, value"):
        score(tmp_path, scorer, 101)
    part.unlink()
    assert len(score(tmp_path, scorer, 101)) == 101
    assert len(scorer.asked()) == 100 + BATCH + 1


@pytest.mark.parametrize("pool", [ScoringPool(cpus_per_actor=64), ScoringPool(gpus_per_actor=1)])
def test_a_pool_that_never_fits_is_refused(ray_here: None, tmp_path: Path, pool: ScoringPool) -> None:
    store = Store(tmp_path)
    with pytest.raises(MachineError, match=r"scoring_pool: an actor needs .* lower `cpus_per_actor` or"):
        score_rollouts("logged", Logged(log=str(tmp_path / "log")), rollouts(store, 100), store=store, pool=pool)
