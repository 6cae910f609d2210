"""Stage: scores. Rollouts stream through filter actors of Ray Data; one row in, one row out, nothing is dropped."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sftfilter import run_log
from sftfilter.actor_failures import raise_failure
from sftfilter.artifacts import Artifact, Store
from sftfilter.attempts import attempt
from sftfilter.config import Settings, stable_hash
from sftfilter.errors import DataError, MachineError, SftfilterError
from sftfilter.filter_actor import REMEDY, FilterActor
from sftfilter.growth import grows
from sftfilter.row_units import cut, row_count, row_ids
from sftfilter.schema import SCORES
from sftfilter.score_store import part_folder, read_in_blocks, scored_rows

if TYPE_CHECKING:
    import numpy as np

    from sftfilter.scorers.contract import ScorerSettings

VERSION = 2
_NAMED = 5
_IDENTITY = frozenset({"rollout_id", "prompt_id", "messages", "completion", "teacher"})
"""Columns that a rollout's id is the hash of, and the id itself."""
_TASKS = 4096
"""Ray Data is handed no more blocks than this, each of one unit of work or more."""


class ScoringPool(Settings):
    """The pool of filter actors. What is left out follows from the scorer: a model gets whole GPUs or all cores."""

    min_actors: Annotated[int, Field(gt=0)] = 1
    max_actors: Annotated[int | None, Field(gt=0, description="default: one a CPU, or for a model one a GPU")] = None
    cpus_per_actor: Annotated[float, Field(gt=0, description="leave CPUs free for the rest")] = 0.5
    gpus_per_actor: Annotated[float | None, Field(ge=0, description="default: 1 for a model where there are GPUs")] = (
        None
    )
    threads: Annotated[int | None, Field(gt=0, description="torch threads; default: the node's cores")] = None
    batch: Annotated[int | None, Field(gt=0, description="rows handed to an actor at a time")] = None


def score_rollouts(
    name: str,
    scorer: ScorerSettings,
    rollouts: Artifact,
    *,
    store: Store,
    pool: ScoringPool,
    error_budget: float = 1.0,
    on_rows: Callable[[int], None] | None = None,
) -> Artifact:
    """Table `scores`, a row for each rollout.

    Args:
        error_budget: share of rows that may end without a score. Stored scores with more errors than this are not
            taken as they are: the rows without a score are tried again.
        on_rows: called with the number of rows that have been dealt with, as they are.

    Raises:
        DataError: more rows than the budget allows have no score; those that have one are kept.
    """
    fingerprint = scorer.fingerprint()
    if not _IDENTITY.issuperset(scorer.needs):  # what is no part of a rollout's identity may change under its id
        fingerprint = stable_hash([fingerprint, rollouts.key])

    table = rollouts.path / "rollouts.parquet"

    def make(folder: Path) -> dict[str, Any]:
        import numpy as np
        import polars as pl

        parts = part_folder(store.root, fingerprint)
        wanted = np.ones(row_count(table), bool)
        wanted[scored_rows(parts, row_ids(table))] = False
        before = int((~wanted).sum())
        if on_rows:
            on_rows(before)
        began, scoring = time.monotonic(), 0.0
        if wanted.any():
            prepared = store.build(
                "scorer",
                version=scorer.version,
                settings={"fingerprint": fingerprint},
                inputs={},
                make=lambda made: _prepare(scorer, made, pool),
            )
            with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as run:
                for rows, spent in _score(scorer, prepared.path, table, wanted, parts, Path(run), pool):
                    scoring += spent
                    if on_rows:
                        on_rows(rows)
        seconds = round(time.monotonic() - began, 3)
        counts = _gather(name, fingerprint, table, parts, folder, error_budget)
        times = {"seconds": seconds, "scoring_seconds": round(scoring, 4)}
        notes = scorer.notes(pl.scan_parquet(folder / "scores.parquet"))
        return counts | {"scored_before": before, **times} | ({"notes": list(notes)} if notes else {})

    return store.build(
        "scores",
        version=VERSION,
        settings={"fingerprint": fingerprint, "name": name},
        inputs={"rollouts": rollouts.key},
        make=make,
        final=lambda meta: meta["errors"] <= error_budget * meta["rows"],
    )


def _resources(scorer: ScorerSettings, pool: ScoringPool) -> tuple[float, int]:
    """GPUs an actor gets, and how many actors there may be."""
    import ray

    have = ray.cluster_resources().get("GPU", 0)
    gpus = pool.gpus_per_actor if pool.gpus_per_actor is not None else float(scorer.heavy and have >= 1)
    if scorer.heavy:
        return gpus, max(pool.min_actors, pool.max_actors or int(have // gpus if gpus else 1))
    most = max(1, int(ray.cluster_resources().get("CPU", 1))) if scorer.actors is None else scorer.actors
    return gpus, max(pool.min_actors, pool.max_actors or most)


def _prepare(scorer: ScorerSettings, folder: Path, pool: ScoringPool) -> dict[str, Any]:
    """Let the scorer make what its actors share, where a GPU can be had if it needs one."""
    from sftfilter.scorers.contract import ScorerSettings

    if type(scorer).prepare is ScorerSettings.prepare:
        return {}
    import ray
    import ray.exceptions

    gpus, _ = _resources(scorer, pool)
    # A node that is lost costs the preparation so far; what kills its worker by itself is tried as often as a batch.
    task = ray.remote(num_gpus=gpus, num_cpus=pool.cpus_per_actor, max_retries=-1)(_prepare_there)
    try:
        ray.get(task.remote(scorer, str(folder), "cuda" if gpus else "cpu", pool.threads))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SftfilterError):
            raise error.cause from None
        raise
    return {}


def _prepare_there(scorer: ScorerSettings, folder: str, device: str, threads: int | None) -> None:
    import os

    import torch

    torch.set_num_threads(threads or os.cpu_count() or 1)
    with attempt(Path(folder), f"preparing {type(scorer).__name__}", REMEDY):
        scorer.prepare(Path(folder), device)


def _score(
    scorer: ScorerSettings, prepared: Path, table: Path, wanted: np.ndarray, parts: Path, run: Path, pool: ScoringPool
) -> Iterator[tuple[int, float]]:
    """Score the rows that are flagged; yields how many, and for how many seconds an actor scored them, unit by unit.

    `run` is a folder for what only this run needs.
    """
    import pyarrow as pa
    import ray.data
    from ray.data.exceptions import ExecutionTimeoutError

    gpus, actors = _resources(scorer, pool)
    _check_fits(pool, gpus)
    rows = int(wanted.sum())
    batch = pool.batch or scorer.batch
    units = cut(table, wanted, min(batch, -(-rows // actors)) if scorer.heavy else batch)
    device = "cuda" if gpus else "cpu"
    a_task = -(-len(units) // _TASKS)
    blocks = [pa.concat_tables(units[first : first + a_task]) for first in range(0, len(units), a_task)]
    counted = ray.data.from_arrow(blocks).map_batches(
        FilterActor,
        fn_constructor_args=(scorer, str(prepared), str(parts), str(run), device, pool.threads, run_log.told()),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.min_actors, max_size=actors, initial_size=max(pool.min_actors, min(actors, len(blocks)))
        ),
        num_cpus=pool.cpus_per_actor,
        num_gpus=gpus,
    )
    done: Any  # a pyarrow table, as asked for
    try:
        for done in counted.iter_batches(batch_size=None, batch_format="pyarrow"):
            raise_failure(done)
            yield sum(done.column("rows").to_pylist()), sum(done.column("seconds").to_pylist())
    except ExecutionTimeoutError as error:
        raise MachineError(
            f"scoring has stood still for {counted.context.execution_no_progress_timeout_s / 60:.0f} minutes: no actor "
            "could start (`ray status` shows what is missing), or one lost its connection; run again, what is scored is "
            "kept. If one batch takes longer than that, lower `scoring_pool.batch`"
        ) from error


def _check_fits(pool: ScoringPool, gpus: float) -> None:
    """Refuse a pool that Ray would wait for without end."""
    import ray
    from ray._private.state import state

    need = {"CPU": pool.cpus_per_actor, "GPU": gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(k, 0) >= v for k, v in need.items()) for node in nodes):
        return
    later = state.get_max_resources_from_cluster_config() or {}  # what an autoscaler may add
    if all(later.get(k, 0) >= v for k, v in need.items()) or (not later and grows()):
        return
    have = {k: max((node.get(k, 0) for node in nodes), default=0) for k in need}
    raise MachineError(
        f"scoring_pool: an actor needs {need['CPU']:g} CPUs and {need['GPU']:g} GPUs, the largest node has "
        f"{have['CPU']:g} and {have['GPU']:g}: lower `cpus_per_actor` or `gpus_per_actor`, or use a larger cluster"
    )


def _gather(name: str, fingerprint: str, table: Path, parts: Path, folder: Path, budget: float) -> dict[str, int]:
    """Write the table `scores`: the parts' rows, in the order of the rollouts."""
    import numpy as np
    import polars as pl
    import pyarrow.parquet as pq

    rows, errors = row_count(table), 0
    lost = np.ones(rows, bool)
    bad: list[dict[str, Any]] = []
    constant = [pl.lit(name).alias("scorer"), pl.lit(fingerprint).alias("fingerprint")]
    with pq.ParquetWriter(folder / "scores.parquet", SCORES, compression="zstd", compression_level=1) as writer:
        for found in read_in_blocks(parts, row_ids(table), rows):
            lost[found["row"].to_numpy()] = False
            failed = found.filter(pl.col("score").is_null())
            errors += len(failed)
            bad += failed.head(_NAMED - len(bad)).to_dicts()
            writer.write_table(found.with_columns(constant).select(SCORES.names).to_arrow().cast(SCORES))
    if lost.any():
        some = row_ids(table).filter(pl.col("row").is_in(np.flatnonzero(lost)[:_NAMED])).collect()["rollout_id"]
        raise DataError(
            f"scorer {name}: {rows} rollouts went in and {rows - int(lost.sum())} scores came out; without one: "
            f"{', '.join(some)}"
        )
    if errors > budget * rows:
        named = "\n".join(f"  rollout {r['rollout_id']}: {r['error']}" for r in bad)
        raise DataError(
            f"scorer {name}: {errors} of {rows} rows have no score, more than error_budget {budget:g} allows:\n"
            f"{named}\nThe others are kept; mend the cause and run again, or raise `error_budget`."
        )
    return {"rows": rows, "errors": errors}
