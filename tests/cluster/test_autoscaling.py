"""Ray's own autoscaler on this machine: the configuration, and a real sweep that it grows and shrinks a cluster for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from cluster.autoscaling import HEAD_ID, LIMITS, Growth, limits, state_limits, state_limits_of_environment
from sftfilter.errors import MachineError
from tests.cluster.grown_sweep import LIMIT, STUDENTS, sweep_that_grows, sweep_that_stands


def test_the_autoscaler_reads_what_is_written(tmp_path: Path) -> None:
    growth = Growth(1, 5, idle_s=30)
    made = growth.config("127.0.0.1:6379", tmp_path, {"CPU": 0}, {"CPU": 2, "GPU": 1})
    read = AutoscalingConfig(made, skip_content_hash=True)
    worker = (read.get_node_type_configs() or {})["worker"]
    assert (worker.min_worker_nodes, worker.max_worker_nodes) == (1, 5)
    assert worker.resources == {"CPU": 2, "GPU": 1} and read.get_idle_timeout_s() == 30
    assert read.get_max_num_nodes() == 6 and read.get_provider_config()["head_node_id"] == HEAD_ID


@pytest.mark.parametrize(("fewest", "most", "idle_s"), [(3, 2, 60), (-1, 2, 60), (0, 0, 60), (0, 2, 0)])
def test_limits_that_make_no_sense(fewest: int, most: int, idle_s: float) -> None:
    with pytest.raises(ValueError, match="give"):
        Growth(fewest, most, idle_s)


def test_the_command_line_says_what_is_wrong() -> None:
    command = [sys.executable, "-m", "cluster.local_nodes", "--max-nodes", "2", "--min-nodes", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "worker nodes from 3 to 2" in done.stderr


@pytest.mark.ray
def test_a_cluster_that_grows_is_believed_until_it_states_its_limits(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray import _raylet

    from sftfilter.growth import grows
    from sftfilter.training_settings import Execution
    from sftfilter.trials import trials_at_once

    gcs = ray.get_runtime_context().gcs_address
    ray_: Any = _raylet  # compiled, without types
    client = ray_.GcsClient(address=gcs)

    def enable(value: bytes) -> None:
        key, namespace = ray_.GCS_AUTOSCALER_V2_ENABLED_KEY, ray_.GCS_AUTOSCALER_STATE_NAMESPACE
        client.internal_kv_put(key.encode(), value, True, namespace.encode())

    three = Execution(workers=3)
    with pytest.raises(MachineError, match="3 workers need 3 CPU, this cluster has 2"):
        trials_at_once(three, None)
    enable(b"1")
    try:
        assert trials_at_once(three, 5) == 5 and trials_at_once(three, None) == 1
        state_limits(gcs, Growth(0, 4).config(gcs, Path("/nowhere"), {"CPU": 0}, {"CPU": 1}))
        assert trials_at_once(three, 5) == 1 and trials_at_once(Execution(workers=1), None) == 4
        with pytest.raises(MachineError, match="5 workers need 5 CPU, this cluster can grow to 4"):
            trials_at_once(Execution(workers=5), 2)
        with pytest.raises(MachineError, match="needs 3 CPU and the largest node of this cluster can have 2"):
            trials_at_once(Execution(workers=1, cpus_per_worker=3), 2)  # the nodes of all have 4
        state_limits_of_environment(gcs)
        assert trials_at_once(Execution(workers=1), None) == 4, "the environment says nothing"
        monkeypatch.setenv(LIMITS, limits({"cpu": (3, {"CPU": 2})}))
        state_limits_of_environment(gcs)
        assert trials_at_once(Execution(workers=1), None) == 6 and trials_at_once(three, None) == 2
    finally:
        enable(b"0")
        assert not grows(), "Ray remembers in this process what it read last"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_grows_the_cluster_and_gives_it_back(tmp_path: Path) -> None:
    grown = sweep_that_grows(tmp_path / "grows")
    samples = grown.samples
    there = [set(sample["nodes"]) for sample in samples]
    assert there[0] == there[-1] == {HEAD_ID}, "it starts and ends with the head alone"
    assert max(len(nodes) for nodes in there) == 1 + LIMIT, "it grows to its limit and no further"
    assert all(HEAD_ID in nodes for nodes in there)

    placed = {actor: node for sample in samples for actor, node in sample["trainings"].items()}
    used = set(placed.values())
    assert len(placed) == len(grown.swept.hashes) == STUDENTS, "a worker for each student, none of them a second time"
    assert HEAD_ID not in used and len(used) >= LIMIT, "trials spread over all nodes that came"
    assert max(len(sample["trainings"]) for sample in samples) == LIMIT, (
        "as many trainings at a time as there are nodes"
    )
    for sample in samples:
        at_work = list(sample["trainings"].values())
        assert len(set(at_work)) == len(at_work), "one CPU a node, one training"

    came = set().union(*there) - {HEAD_ID}
    assert set(grown.gone) == came and not grown.lost, "every node was given back, none with a training on it"
    assert all("idle" in why for why in grown.gone.values()), grown.gone

    stood = sweep_that_stands(tmp_path / "stands")
    assert grown.swept.hashes == stood.hashes, "the same students, bit for bit"
