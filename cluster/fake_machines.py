"""Machines for the autoscaler that are raylets on this one (see `cluster.autoscaling`); imported by the autoscaler's process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)


class FakeMachines(FakeMultiNodeProvider):
    """Ray's fake provider, but every node listens on loopback and has a folder of its own, as a machine has.

    Nodes that share the head's folder unpack a job's files where the head has them, and so take them from under it.
    """

    def _create_node_with_resources_and_labels(
        self,
        node_config: Mapping[str, Any],  # noqa: ARG002 (the parent's way of calling)
        tags: Mapping[str, str],
        count: int,  # noqa: ARG002
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        with self.lock:
            kind, node_id = tags[TAG_RAY_USER_NODE_TYPE], self._next_hex_node_id()
            rest = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
            known = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id, "RAY_CLOUD_INSTANCE_ID": node_id}
            params = RayParams(
                gcs_address=self._gcs_address,
                redis_address=self._gcs_address,
                node_ip_address="127.0.0.1",
                temp_dir=str(Path(self.provider_config["folder"]) / node_id[-3:]),  # short, for the sake of its sockets
                num_cpus=int(resources.get("CPU", 0)),
                num_gpus=int(resources.get("GPU", 0)),
                resources=rest,
                labels=dict(labels),
                min_worker_port=0,
                max_worker_port=0,
                dashboard_agent_listen_port=0,
                env_vars=known | {"RAY_NODE_TYPE_NAME": kind},
            )
            node = Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
            about = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
            about |= {TAG_RAY_USER_NODE_TYPE: kind, TAG_RAY_NODE_NAME: node_id}
            nodes: dict[str, dict[str, Any]] = self._nodes  # pyright: ignore[reportAssignmentType]
            nodes[node_id] = {"tags": {**about, **tags}, "node": node}
