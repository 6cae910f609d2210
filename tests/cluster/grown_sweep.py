"""A sweep of eight small trainings, on a cluster that grows for it and on one that stands: for the test and the benchmark."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.autoscaling import HEAD_ID, Growth
from cluster.local_nodes import LocalNodes, local_nodes
from jobs.run_record import EVENTS, parse_events
from sftfilter.artifacts import MARKER
from sftfilter.progress import Tail
from tests.conftest import REPOSITORY, random_model, write_tiny_spec

NAME, STUDENTS, LIMIT = "grown", 8, 4
IDLE_S = 20.0
_PATIENCE_S = 240.0

Sample = dict[str, Any]
"""As `tests.cluster.watch.sample` says."""


@dataclass(frozen=True)
class Swept:
    """A sweep that has ended.

    Attributes:
        hashes: student's artifact -> hash of its weights.
        events: of the run's record.
        began, ended: of the submission, in seconds since the epoch.
    """

    hashes: dict[str, str]
    events: list[dict[str, Any]]
    began: float
    ended: float


@dataclass(frozen=True)
class Grown:
    """The same with the cluster's state all the while, from the head alone to the head alone.

    Attributes:
        gone: ids of the nodes that were removed, and why, as the state API says.
        lost: training workers that died with something else than their work's end: id -> cause.
    """

    swept: Swept
    samples: Sequence[Sample]
    gone: dict[str, str]
    lost: dict[str, str]


def write_sweep(folder: Path) -> Path:
    """The sweep: four learning rates, two arms, so that no two students are equal."""
    folder.mkdir(parents=True)
    arms = {
        "base": {},
        "all-T": {"teacher": "T"},
        "swap": {"teacher": "T", "intervention": {"kind": "swap", "subset": "S", "to": "C"}},
    }
    write_tiny_spec(
        folder,
        base_model=random_model(folder / "model"),
        arms=arms,
        roles={"original": "all-T", "alternate": "swap", "base": "base"},
        training={"steps": 20, "batch": 8},
        execution={"workers": 1},
        capability=None,
    )
    rates = [1e-4, 3e-4, 1e-3, 3e-3]
    path = folder / "sweep.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "kind": "sweep",
                "name": NAME,
                "experiment": "spec.yaml",
                "results": str(folder / "results"),
                "space": {"training.learning_rate": rates},
            }
        )
    )
    return path


def sweep_that_grows(folder: Path) -> Grown:
    """On a head without work, to which up to LIMIT nodes of one CPU come."""
    with local_nodes(1, cpus=1, head_cpus=0, growth=Growth(0, LIMIT, IDLE_S)) as cluster, watched(cluster) as samples:
        wait_for(samples, lambda now: set(now["nodes"]) == {HEAD_ID})
        swept = run_sweep(cluster, folder)
        wait_for(samples, lambda now: set(now["nodes"]) == {HEAD_ID})
        told = json.loads(_in_cluster(cluster, _AFTERWARDS, cluster.dashboard))
        known = [sample for sample in samples if sample["nodes"]]  # the autoscaler takes a moment to see the head
        return Grown(swept, known, told["gone"], told["lost"])


def sweep_that_stands(folder: Path) -> Swept:
    """On one node with as many CPUs as the other may grow to."""
    with local_nodes(1, cpus=LIMIT) as cluster:
        return run_sweep(cluster, folder)


def run_sweep(cluster: LocalNodes, folder: Path) -> Swept:
    """Submit the sweep as a user does, and wait for its end."""
    spec = write_sweep(folder)
    command = [str(Path(sys.executable).parent / "sftfilter"), "submit", spec.name, "--address", cluster.dashboard]
    began = time.time()
    done = subprocess.run(command, cwd=folder, env=cluster.env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the sweep failed: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    ended = time.time()
    made = (folder / "results" / "artifacts").glob(f"student-*/{MARKER}")
    hashes = {file.parent.name: json.loads(file.read_text())["model_hash"] for file in made}
    events = parse_events((folder / "results" / NAME / EVENTS).read_text().splitlines())
    return Swept(hashes, events, began, ended)


class Samples(Sequence[Sample]):
    """What the watch has written so far."""

    def __init__(self, file: Path, watch: subprocess.Popen[bytes]) -> None:
        self.watch = watch
        self._tail, self._read = Tail(file), []

    def fresh(self) -> None:
        """Read what was added."""
        self._read += self._tail.events()

    def __len__(self) -> int:
        self.fresh()
        return len(self._read)

    def __getitem__(self, index: Any) -> Any:
        self.fresh()
        return self._read[index]


@contextlib.contextmanager
def watched(cluster: LocalNodes) -> Iterator[Samples]:
    """The cluster's state, sampled by a process of its own while the block runs."""
    file, log = cluster.temp / "watch.jsonl", cluster.temp / "watch.log"
    command = [sys.executable, "-m", "tests.cluster.watch", cluster.address, cluster.dashboard, str(file)]
    with open(log, "wb") as sink:
        watch = subprocess.Popen(command, env=cluster.env, cwd=REPOSITORY, stdout=sink, stderr=sink)
    try:
        yield Samples(file, watch)
        if watch.poll() is not None:
            raise RuntimeError(f"the watch ended: {log.read_text()[-2000:]}")
    finally:
        watch.terminate()
        watch.wait()


def wait_for(samples: Samples, what: Any) -> None:
    """Until the cluster's state, as sampled from now on, is so."""
    seen, deadline = len(samples), time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and samples.watch.poll() is None:
        if any(what(sample) for sample in samples[seen:]):
            return
        time.sleep(0.5)
    last = samples[-1] if len(samples) else "nothing was sampled"
    raise RuntimeError(f"not within {_PATIENCE_S:.0f} s; the last state: {last}")


_AFTERWARDS = """
import json, sys
from ray.util.state import list_actors, list_nodes
nodes = list_nodes(sys.argv[1], detail=True, limit=1000)
actors = list_actors(sys.argv[1], filters=[("class_name", "=", "RayTrainWorker")], detail=True, limit=1000)
gone = {node.node_id: node.state_message or "" for node in nodes if node.state == "DEAD"}
why = {actor.actor_id: str(actor.death_cause) for actor in actors if actor.state == "DEAD"}
print(json.dumps({"gone": gone, "lost": {id: cause for id, cause in why.items() if "node_died" in cause.lower()}}))
"""


def _in_cluster(cluster: LocalNodes, code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=cluster.env, capture_output=True, text=True, check=True).stdout
