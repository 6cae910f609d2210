"""Several nodes on one machine: all that were asked for are there, or it is said which one is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import local_nodes
from sftfilter.errors import MachineError


@pytest.mark.ray
@pytest.mark.slow
def test_every_node_has_joined_when_the_block_begins() -> None:
    counting = (
        "import ray; ray.init(); print('CPUs', ray.cluster_resources()['CPU'], sum(n['Alive'] for n in ray.nodes()))"
    )
    with local_nodes.local_nodes(3, cpus=2, head_cpus=0) as cluster:
        env = cluster.env | {"RAY_ADDRESS": cluster.address}
        told = subprocess.run([sys.executable, "-c", counting], env=env, capture_output=True, text=True, check=True)
    assert "CPUs 4.0 3" in told.stdout
    assert all(node.poll() is not None for node in cluster.nodes)


def test_a_node_that_ends_is_named_with_what_it_said(tmp_path: Path) -> None:
    env = dict(os.environ) | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    cluster = local_nodes.LocalNodes("", "not an address", env, tmp_path)
    with pytest.raises(MachineError, match=r"node-0 ended with 1: ValueError: Invalid address format: not an address"):
        cluster.add_node(1)
