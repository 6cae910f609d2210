"""A cluster of two nodes that loses one while an arm is trained on both; prints what came of it as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sftfilter.chat_format import ChatFormat
from sftfilter.models import load_tokenizer
from tests.training_case import FULL, Case, Killer, furthest, weights


def main(model: str, storage: str, into: str, steps: int) -> None:
    """Train on [1, 2] workers, remove a node once a checkpoint is whole, and compare with a plain loop."""
    os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_V2_ENABLED": "1"}
    import ray
    from ray.cluster_utils import Cluster

    from jobs.run import worker_env

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, runtime_env={"env_vars": worker_env()}, log_to_driver=False)
    try:
        case = Case(model, ChatFormat(load_tokenizer(model), "Be brief."), Path(storage))
        settings = FULL.model_copy(update={"epochs": None, "steps": steps})
        run = case.run("full", settings)
        killer = Killer(case.storage / into, ["full"], lambda _: cluster.remove_node(lost, allow_graceful=False))
        made = case.train([run], into, killer, workers=(1, 2), checkpoint_every_steps=5)
        told = {
            "groups": [len(event["workers"]) for event in killer.events if "workers" in event],
            "struck_at": killer.struck_at["full"][0],
            "resumed": killer.resumed(),
            "furthest": furthest(weights(made["full"]), case.oracle(run)[0]),
            "recover_s": killer.recovered["full"],
        }
        print(json.dumps(told))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
