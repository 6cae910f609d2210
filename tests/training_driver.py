"""A process that starts its own Ray, trains one arm slowly enough to be killed, and prints its events."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sftfilter.chat_format import ChatFormat
from sftfilter.models import load_tokenizer
from tests.training_case import FULL, Case


def main(model: str, storage: str, into: str, steps: int) -> None:
    """Train until killed."""
    from cluster.local import local_ray
    from jobs.run import worker_env

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    case = Case(model, ChatFormat(load_tokenizer(model), "Be brief."), Path(storage))
    settings = FULL.model_copy(update={"epochs": None, "steps": steps})
    with local_ray(worker_env(), cpus=2):
        case.train(
            [case.run("full", settings)],
            into,
            lambda event: print(json.dumps(dict(event)), flush=True),
            workers=2,
            checkpoint_every_steps=5,
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
