"""Writes a cluster's state down about twice a second, a line of JSON each: `python -m tests.cluster.watch GCS DASHBOARD FILE`.

Run it with the cluster's token in its environment; it ends when it is terminated. A line says, as the autoscaler and
the state API have it: the nodes there are and whether they idle, nodes asked for, and where training workers run.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

EVERY_S = 0.5
TRAINER = "RayTrainWorker"
"""Class of Ray Train's worker actors; the trials here have one each."""


def sample(gcs: str, dashboard: str) -> dict[str, Any]:
    """The cluster at this moment.

    Returns:
        at (seconds since the epoch), nodes (id -> idle or not; only those that are there), asked (nodes on their way),
        trainings (actor id -> id of its node; only those that live).
    """
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.util.state import list_actors

    status = get_cluster_status(gcs)
    nodes = {node.node_id: False for node in status.active_nodes} | {node.node_id: True for node in status.idle_nodes}
    asked = sum(launch.count for launch in status.pending_launches) + len(status.pending_nodes)
    filters: Any = [("class_name", "=", TRAINER), ("state", "=", "ALIVE")]
    actors: list[Any] = list_actors(dashboard, filters=filters, limit=1000)
    return {
        "at": time.time(),
        "nodes": nodes,
        "asked": asked,
        "trainings": {actor.actor_id: actor.node_id for actor in actors},
    }


def main(gcs: str, dashboard: str, file: str) -> None:
    """Sample until terminated."""
    with open(file, "a") as sink:
        while True:
            sink.write(json.dumps(sample(gcs, dashboard)) + "\n")
            sink.flush()
            time.sleep(EVERY_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
