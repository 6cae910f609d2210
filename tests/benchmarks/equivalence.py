"""Exactness of training: every split over workers, ZeRO stages and micro-batches against a plain loop, then the faults.

A row of the matrix is the largest difference of any weight from the loop's, against the tolerance; a row of the fault
table is the seconds until training is past the step at which it was struck, and what was lost.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.local import local_ray
from jobs.run import worker_env
from sftfilter.artifacts import Artifact
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import TrainingError
from sftfilter.models import BUILTIN, load_tokenizer, resolve
from tests.benchmarks.row import Row, smaller
from tests.training_case import FULL, LORA, Case, Killer, furthest, kill_one, same_bits, tiny_llama, weights

TOLERANCE = 1e-5
SPLITS = [(w, z, 4096) for w in (1, 2, 4) for z in (0, 1, 2, 3)] + [(2, z, 40) for z in (0, 1, 2, 3)]
STEPS = 40
DRIVER_STEPS = 300
"""So many that workers, which outlive their driver for a second, do not finish the arm."""
RECOVER_S = 60


def rows() -> Iterator[Row]:
    """The matrix, then the faults."""
    os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    chat = ChatFormat(load_tokenizer(resolve(BUILTIN)), "Be brief.")
    with tempfile.TemporaryDirectory(prefix="equivalence-") as folder:
        case = Case(tiny_llama(Path(folder) / "model", chat), chat, Path(folder))
        with local_ray(worker_env(), cpus=2):
            yield from _matrix(case)
            whole: dict[int, Mapping[str, Artifact]] = {}
            yield from _killed_workers(case, whole)
            yield from _moved(case, whole)
            yield _killed_driver(case)
        yield _lost_node(case)


def _matrix(case: Case) -> Iterator[Row]:
    runs = [case.run("full", FULL), case.run("lora", LORA)]
    oracle = {run.name: case.oracle(run)[0] for run in runs}
    for workers, stage, tokens in SPLITS:
        share = min(1.0, 2 / workers)
        settings: dict[str, Any] = {"workers": workers, "zero_stage": stage, "micro_batch_tokens": tokens}
        made = case.train(runs, f"m-{workers}-{stage}-{tokens}", cpus_per_worker=share, **settings)
        for name, artifact in made.items():
            off = furthest(weights(artifact), oracle[name])
            what = f"{name}, {workers} workers, ZeRO {stage}, micro-batches of {tokens} tokens"
            yield smaller(what, max(off, 1e-12), TOLERANCE, "largest difference", 1.0)


def _long(case: Case, *names: str, steps: int = STEPS) -> list[Any]:
    of = {"full": FULL, "lora": LORA, "full-bf16": FULL.model_copy(update={"precision": "bf16"})}
    return [case.run(name, of[name].model_copy(update={"epochs": None, "steps": steps})) for name in names]


def _fault(what: str, killer: Killer, arm: str, made: Artifact, whole: Artifact) -> Row:
    struck, resumed = killer.struck_at[arm][0], killer.resumed()[arm]
    identical = "the same bits" if same_bits(made, whole) else "OTHER WEIGHTS"
    note = f"struck after step {struck}, went on from {resumed}: {max(0, struck - resumed)} steps again; {identical}"
    return smaller(what, killer.recovered[arm], RECOVER_S, "s to recover", 1.0, note)


def _killed_workers(case: Case, whole: dict[int, Mapping[str, Artifact]]) -> Iterator[Row]:
    """Two arms for each stage, interrupted once each; fills `whole` with the same arms left in peace."""
    for stage in (0, 1, 2, 3):
        runs = _long(case, "full", "lora", "full-bf16")
        killer = Killer(case.storage / f"k-{stage}", [run.name for run in runs], kill_one)
        made = case.train(runs, f"k-{stage}", killer, zero_stage=stage, checkpoint_every_steps=5)
        whole[stage] = case.train(runs, f"w-{stage}", zero_stage=stage)
        for name in made:
            yield _fault(f"worker SIGKILL, ZeRO {stage}, {name}", killer, name, made[name], whole[stage][name])


def _moved(case: Case, whole: Mapping[int, Mapping[str, Artifact]]) -> Iterator[Row]:
    """A worker dies, and training goes on with another number of them."""
    for stage, name, workers in (
        (0, "full", 1),
        (1, "lora", 3),
        (2, "full", 1),
        (2, "lora", 3),
        (3, "full", 3),
        (3, "lora", 1),
    ):
        runs, into = _long(case, name), f"v-{stage}-{name}"
        killer = Killer(case.storage / into, [name], kill_one)
        try:
            case.train(runs, into, killer, zero_stage=stage, checkpoint_every_steps=5, max_failures=0)
        except TrainingError as death:
            print(f"    as wished: {death}", file=sys.stderr)
        moved = case.train(runs, into, killer, zero_stage=stage, workers=workers, cpus_per_worker=0.5)
        off = furthest(weights(moved[name]), weights(whole[stage][name]))
        what = f"{name}, ZeRO {stage}: 2 workers, one killed, {workers} go on, against 2 left in peace"
        note = f"went on from step {killer.resumed()[name]} of {STEPS}"
        yield smaller(what, max(off, 1e-12), TOLERANCE, "largest difference", 1.0, note)


def _killed_driver(case: Case) -> Row:
    steps = str(DRIVER_STEPS)
    command = [sys.executable, "-m", "tests.training_driver", case.model, str(case.storage), "driver", steps]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    killer = Killer(case.storage / "driver", ["full"], lambda _: os.kill(driver.pid, signal.SIGKILL))
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.startswith("{"):  # and not what libraries print
            killer(json.loads(line))
    driver.wait()
    runs = _long(case, "full", steps=DRIVER_STEPS)
    made = case.train(runs, "driver", killer)["full"]
    whole = case.train(runs, "driver-whole")["full"]
    return _fault("driver SIGKILL with its Ray, run again", killer, "full", made, whole)


def _lost_node(case: Case) -> Row:
    command = [sys.executable, "-m", "tests.lost_node", case.model, str(case.storage), "node", str(STEPS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: Mapping[str, Any] = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    struck, resumed = told["struck_at"], told["resumed"]["full"]
    note = (
        f"{' -> '.join(map(str, told['groups']))} workers; struck after step {struck}, went on from {resumed}; "
        f"largest difference {told['furthest']:.1e}"
    )
    return smaller("node removed, elastic workers [1, 2]", told["recover_s"], RECOVER_S, "s to recover", 1.0, note)
