"""The lexicon scorer and bare Ray Data on the same rows: `python -m tests.benchmarks.lexicon_race race|memory ROWS`.

Each is a process with a Ray of its own. `race` lets the contestants take turns, `memory` runs ours alone. Prints a line
of JSON for each run: contestant, rows, seconds, and for `memory` the peaks.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tests.benchmarks.chat_rows import KEPT, chat_rows

TERMS = [r"\bdoubt", r"\bnot 2026", "isn't 2026", "can't be 2026"]
"""The quickstart's naive filter."""
CPUS = 2
ROUNDS = 2


def vectorised(batch: pa.Table) -> pa.Table:
    """What the lexicon scorer computes, and nothing else."""
    hits = [pc.match_substring_regex(batch["completion"], t, ignore_case=True) for t in TERMS]  # pyright: ignore[reportAttributeAccessIssue]
    total = pc.cast(hits[0], pa.float64())  # pyright: ignore[reportAttributeAccessIssue]
    for hit in hits[1:]:
        total = pc.add(total, pc.cast(hit, pa.float64()))  # pyright: ignore[reportAttributeAccessIssue]
    return pa.table({"rollout_id": batch["rollout_id"], "score": total})


class Vectorised:
    """The same in an actor."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        return vectorised(batch)


class PythonRe:
    """The same with Python's re."""

    def __init__(self) -> None:
        self.terms = [re.compile(t, re.IGNORECASE) for t in TERMS]

    def __call__(self, batch: pa.Table) -> pa.Table:
        counts = [float(sum(bool(t.search(text)) for t in self.terms)) for text in batch["completion"].to_pylist()]
        return pa.table({"rollout_id": batch["rollout_id"], "score": counts})


def _bare(rows: Path, function: Callable[..., Any], batch: int | None = 4096, **compute: Any) -> int:
    import ray.data

    read = ray.data.read_parquet(str(rows)).select_columns(["rollout_id", "completion"])
    scored = read.map_batches(function, batch_size=batch, batch_format="pyarrow", **compute)
    batches: Any = scored.iter_batches(batch_size=None, batch_format="pyarrow")
    return sum(batch.num_rows for batch in batches)


def _ours(rows: Path) -> int:
    """The real stage, in a store of its own: nothing is there yet."""
    from sftfilter.artifacts import Store
    from sftfilter.scorers.lexicon import Lexicon
    from sftfilter.scoring import ScoringPool, score_rollouts

    def link(folder: Path) -> dict[str, Any]:
        (folder / "rollouts.parquet").symlink_to(rows)
        return {}

    with tempfile.TemporaryDirectory(dir=KEPT) as root:
        store = Store(root)
        rollouts = store.build("rollouts", version=1, settings=str(rows), inputs={}, make=link)
        lexicon = Lexicon(kind="lexicon", terms=TERMS)
        return score_rollouts("lexicon", lexicon, rollouts, store=store, pool=ScoringPool()).meta["rows"]


def contestants() -> dict[str, Callable[[Path], int]]:
    """Each scores every row and answers how many there were."""
    import ray.data

    pool = {"compute": ray.data.ActorPoolStrategy(size=CPUS), "num_cpus": 0.5}
    return {
        "ours": _ours,
        "bare actors": lambda rows: _bare(rows, Vectorised, **pool),
        "bare tasks": lambda rows: _bare(rows, vectorised),
        "bare tasks, whole blocks": lambda rows: _bare(rows, vectorised, batch=None),
        "bare actors, Python re": lambda rows: _bare(rows, PythonRe, **pool),
    }


def race(rows: Path) -> None:
    """Take turns; the slow one runs once."""
    entered = contestants()
    for turn in range(ROUNDS):
        for name, run in entered.items():
            if turn == 0 or "Python" not in name:
                _timed(name, run, rows)


def memory(rows: Path) -> None:
    """Ours alone, with the peak of the whole process tree."""
    from sftfilter.memory import watch_memory

    with watch_memory(every=0.25) as watch:
        _timed("ours", _ours, rows)
    print(json.dumps({"name": "peak", "gib": watch.peak_gib}), flush=True)


def _timed(name: str, run: Callable[[Path], int], rows: Path) -> None:
    began = time.monotonic()
    count = run(rows)
    seconds = time.monotonic() - began
    print(json.dumps({"name": name, "rows": count, "seconds": seconds, "load": os.getloadavg()[0]}), flush=True)


def main(what: str, count: str) -> None:
    """Start Ray, warm it up on few rows, run."""
    from cluster.local import local_ray
    from jobs.run import worker_env

    rows, few = chat_rows(int(count)), chat_rows(1000)
    with local_ray(worker_env(), cpus=CPUS):
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        _ours(few)
        {"race": race, "memory": memory}[what](rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
