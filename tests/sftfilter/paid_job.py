"""A driver that tests kill: a teacher answers over HTTP, a judge grades the answers. Arguments: URL, folder, prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.endpoint.settings import Endpoint
from sftfilter.endpoint_teacher import ask_teacher
from sftfilter.generated import Drawn
from sftfilter.generating import EndpointTeacher
from sftfilter.generation import Pool
from sftfilter.schema import PROMPTS
from sftfilter.scorers.judge import Judge
from sftfilter.scoring import ScoringPool, score_rollouts

DRAWN = Drawn("T", "Be brief.", 0.7, None, 16, 3)
CONCURRENCY = 4
POOL = Pool(min_actors=2, max_actors=2, cpus_per_actor=0.5)
SCORING = ScoringPool(min_actors=2, max_actors=2, cpus_per_actor=0.5, batch=16)


def prompts_of(store: Store, count: int) -> Artifact:
    """So many prompts, `Prompt 0` and on."""

    def make(folder: Path) -> dict[str, Any]:
        rows = [
            {"prompt_id": f"p{i:04}", "messages": [{"role": "user", "content": f"Prompt {i}"}], "source": "made"}
            for i in range(count)
        ]
        write_table(folder, "prompts", pa.Table.from_pylist(rows, PROMPTS))
        return {}

    return store.build("prompts", version=1, settings=count, inputs={}, make=make)


def teacher_at(url: str, **changes: Any) -> EndpointTeacher:
    """The teacher, with other settings of its own or of its endpoint."""
    settings: dict[str, Any] = {"base_url": url, "model": "m", "retries": 1, "concurrency": CONCURRENCY}
    endpoint = Endpoint.model_validate(settings | changes.pop("endpoint", {}))
    return EndpointTeacher(kind="endpoint", endpoint=endpoint, **changes)


def main(url: str, folder: str, count: str) -> None:
    """Both stages on a Ray of its own."""
    from cluster.local import local_ray
    from jobs.run import worker_env

    store = Store(folder)
    with local_ray(worker_env(), cpus=2):
        teacher = teacher_at(url)
        rollouts = ask_teacher(DRAWN, teacher, prompts_of(store, int(count)), store=store, pool=POOL, error_budget=0)
        judge = Judge(kind="judge", rubric="How sad is it?", endpoint=teacher.endpoint)
        scores = score_rollouts("judge", judge, rollouts, store=store, pool=SCORING, error_budget=0)
    print(rollouts.path, scores.path)


if __name__ == "__main__":
    main(*sys.argv[1:])
