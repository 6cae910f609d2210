"""Nodes that come and go on this machine, by Ray's own autoscaler: what `cluster.local_nodes` needs for `--max-nodes`.

The autoscaler (version 2) is the one of real clusters. Only its provider is made after Ray's fake one, and starts another
raylet here where a cloud's provider would start a machine. So what is seen here of scaling holds elsewhere, except for how long
a machine takes to boot.

Ray's autoscaler tells nobody how far it may grow, yet whoever would refuse what can never run has to know, and so has a
sweep that wants as many students at a time as there is room for. So `python -m cluster.autoscaling GCS CONFIG` writes the
limits of a configuration where Ray itself looks for them. On clusters of our manifests the driver does so, by what the
head's environment says.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""The id that Ray's fake provider knows the head by, in hexadecimal."""
WORKER_TYPE = "worker"
LIMITS = "SFTFILTER_NODE_LIMITS"
"""Variable of the head: JSON, as `limits` makes it."""
_UNUSED = ("cluster_synced_files", "setup_commands", "head_setup_commands", "worker_setup_commands")
"""Keys of Ray's old cluster launcher that have to be there, although no command is ever run here."""
_PROVIDER = "cluster.fake_machines.FakeMachines"


@dataclass(frozen=True)
class Growth:
    """How far a cluster grows and shrinks by itself, its head not counted.

    Attributes:
        fewest, most: worker nodes.
        idle_s: seconds without work after which a node goes.
    """

    fewest: int = 0
    most: int = 4
    idle_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.fewest <= self.most or self.most < 1:
            raise ValueError(f"worker nodes from {self.fewest} to {self.most}: give 0 <= fewest <= most, and most >= 1")
        if self.idle_s <= 0:
            raise ValueError(f"idle_s is {self.idle_s:g}: give the seconds after which an idle node goes")

    def config(
        self, address: str, folder: Path, head: Mapping[str, float], worker: Mapping[str, float]
    ) -> dict[str, Any]:
        """The autoscaler's configuration.

        Args:
            address: of the head's GCS, for nodes to come.
            folder: in which each of them has one of its own.
            head, worker: resources of the head, and of every node that comes.
        """
        provider = {"type": "external", "module": _PROVIDER, "launch_multiple": True, "head_node_id": HEAD_ID}
        return {key: [] for key in _UNUSED} | {
            "cluster_name": "local",
            "provider": provider | {"gcs_address": address, "folder": str(folder)},
            "max_workers": self.most,
            "idle_timeout_minutes": self.idle_s / 60,
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"resources": dict(head), "node_config": {}, "max_workers": 0},
                WORKER_TYPE: {
                    "resources": dict(worker),
                    "node_config": {},
                    "min_workers": self.fewest,
                    "max_workers": self.most,
                },
            },
        }

    def write(self, file: Path, address: str, head: Mapping[str, float], worker: Mapping[str, float]) -> None:
        """The file for `ray start --autoscaling-config`; the nodes' folders lie beside it."""
        file.write_text(json.dumps(self.config(address, file.parent, head, worker), indent=1))  # JSON is YAML


def head_env(metrics_port: int) -> dict[str, str]:
    """Environment of the head, from which its autoscaler and the nodes to come have theirs.

    Args:
        metrics_port: of the autoscaler, whose default is one and the same on every cluster.
    """
    return {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_METRIC_PORT": str(metrics_port),
        # Where clusters are for local use only, Ray keeps a loopback address; otherwise it takes the machine's public one.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def state_limits(gcs: str, config: Mapping[str, Any]) -> None:
    """Tell a cluster how many nodes of which resources it may have.

    Args:
        gcs: host and port; the token is taken from the environment that Ray was imported in.
        config: an autoscaler's, with the resources of every node type.
    """
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2

    messages: Any = autoscaler_pb2  # made by protoc, without types
    limits = messages.ClusterConfig()
    for name, kind in config["available_node_types"].items():
        group = limits.node_group_configs.add()
        group.name, group.min_count, group.max_count = name, kind.get("min_workers", 0), kind["max_workers"]
        for resource, amount in kind["resources"].items():
            group.resources[resource] = int(amount)
    ray_: Any = _raylet
    key, namespace = ray_.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, ray_.GCS_AUTOSCALER_STATE_NAMESPACE
    ray_.GcsClient(address=gcs).internal_kv_put(key.encode(), limits.SerializeToString(), True, namespace.encode())


def limits(groups: Mapping[str, tuple[int, Mapping[str, float]]]) -> str:
    """What the variable LIMITS says of node types: name -> (nodes at the most, resources of each)."""
    kinds = {name: {"max_workers": most, "resources": dict(each)} for name, (most, each) in groups.items()}
    return json.dumps({"available_node_types": kinds})


def state_limits_of_environment(gcs: str) -> None:
    """State the limits that the environment tells of, if it tells of any."""
    if text := os.environ.get(LIMITS):
        state_limits(gcs, json.loads(text))


def main(gcs: str, file: str) -> None:
    """State the limits of the configuration in a file."""
    import yaml

    state_limits(gcs, yaml.safe_load(Path(file).read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
