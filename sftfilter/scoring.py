"""Stage: scores. Rollouts stream through filter actors of Ray Data; one row in, one row out, nothing is dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sftfilter.artifacts import Artifact, Store
from sftfilter.config import Settings, stable_hash
from sftfilter.errors import DataError, SftfilterError
from sftfilter.score_store import part_folder, read_parts, scored_ids, write_part

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

    from sftfilter.scorers.contract import LoadedScorer, Scored, ScorerSettings

VERSION = 2


class ScoringPool(Settings):
    """The pool of filter actors. What is left out follows from the scorer: a model gets whole GPUs or all cores."""

    min_actors: Annotated[int, Field(gt=0)] = 1
    max_actors: Annotated[int | None, Field(gt=0, description="default: 2, or for a model the number of GPUs")] = None
    cpus_per_actor: Annotated[float, Field(gt=0, description="leave CPUs free for reading")] = 0.5
    gpus_per_actor: Annotated[float | None, Field(ge=0, description="default: 1 for a model where there are GPUs")] = (
        None
    )
    threads: Annotated[int | None, Field(gt=0, description="torch threads; default: the node's cores")] = None
    batch: Annotated[int | None, Field(gt=0, description="rows handed to an actor at a time")] = None


class FilterActor:
    """Ray Data actor: scores a batch and keeps it. A row that cannot be scored gets an error, never a zero."""

    def __init__(self, scorer: ScorerSettings, prepared: str, parts: str, device: str, threads: int | None) -> None:
        if scorer.heavy:
            import os

            import torch

            torch.set_num_threads(threads or os.cpu_count() or 1)
        self.parts = Path(parts)
        self.scorer = scorer.load(Path(prepared), device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        scored = score_rows(self.scorer, batch)
        table = pa.table({"rollout_id": batch["rollout_id"], **scored})
        write_part(self.parts, table)
        return pa.table({"rows": [table.num_rows], "errors": [table.num_rows - table["error"].null_count]})


def score_rows(scorer: LoadedScorer, batch: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Columns score, error and detail. A batch that raises is scored row by row, so that one row costs only itself."""
    import pyarrow as pa

    try:
        return _columns(scorer.score(batch), batch.num_rows)
    except SftfilterError:
        raise
    except Exception as problem:
        if batch.num_rows == 1:
            reason = f"{type(problem).__name__}: {problem}"[:500]
            return {
                "score": pa.chunked_array([pa.array([None], pa.float64())]),
                "error": pa.chunked_array([pa.array([reason])]),
                "detail": pa.chunked_array([pa.nulls(1, pa.string())]),
            }
        middle = batch.num_rows // 2
        halves = [score_rows(scorer, batch.slice(0, middle)), score_rows(scorer, batch.slice(middle))]
        return {name: pa.chunked_array([c for h in halves for c in h[name].chunks]) for name in halves[0]}


def _columns(scored: Scored, rows: int) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    score = scored.score.cast(pa.float64())
    if len(score) != rows:
        raise DataError(f"the scorer gave {len(score)} scores for {rows} rows")
    finite = pc.fill_null(pc.is_finite(score), False)  # pyright: ignore[reportAttributeAccessIssue]
    worded = pc.if_else(pc.is_null(score), "no completion to score", "the score is not a finite number")  # pyright: ignore[reportAttributeAccessIssue]
    error = scored.error if scored.error is not None else pa.nulls(rows, pa.string())
    error = pc.if_else(finite, pa.scalar(None, pa.string()), pc.coalesce(error, worded))  # pyright: ignore[reportAttributeAccessIssue]
    score = pc.if_else(finite, score, pa.scalar(None, pa.float64()))  # pyright: ignore[reportAttributeAccessIssue]
    detail = scored.detail if scored.detail is not None else pa.nulls(rows, pa.string())
    return {
        name: column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
        for name, column in (("score", score), ("error", error), ("detail", detail))
    }


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
        error_budget: share of rows that may end without a score.
        on_rows: called with the number of rows that have been dealt with, as they are.

    Raises:
        DataError: more rows than the budget allows have no score; those that have one are kept.
    """
    fingerprint = scorer.fingerprint()
    if "ratings" in scorer.needs:  # they are no part of a rollout's identity, so they are kept by table
        fingerprint = stable_hash([fingerprint, rollouts.key])

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow.dataset as ds

        parts = part_folder(store.root, fingerprint)
        ids = ds.dataset(rollouts.path / "rollouts.parquet").to_table(["rollout_id"])["rollout_id"]
        done = scored_ids(parts, ids)
        if on_rows:
            on_rows(len(done))
        began = time.monotonic()
        if len(done) < len(ids):
            prepared = store.build(
                "scorer",
                version=scorer.version,
                settings={"fingerprint": fingerprint},
                inputs={},
                make=lambda made: _prepare(scorer, made, pool),
            )
            for rows in _score(scorer, prepared.path, rollouts, done, parts, pool):
                if on_rows:
                    on_rows(rows)
        seconds = round(time.monotonic() - began, 3)
        counts = _gather(name, fingerprint, ids, parts, folder)
        _check_errors(name, counts, parts, error_budget)
        return counts | {"scored_before": len(done), "seconds": seconds}

    settings = {"fingerprint": fingerprint, "name": name}
    return store.build("scores", version=VERSION, settings=settings, inputs={"rollouts": rollouts.key}, make=make)


def _resources(scorer: ScorerSettings, pool: ScoringPool) -> tuple[float, int]:
    """GPUs an actor gets, and how many actors there may be."""
    import ray

    have = ray.cluster_resources().get("GPU", 0)
    gpus = pool.gpus_per_actor if pool.gpus_per_actor is not None else float(scorer.heavy and have >= 1)
    if scorer.heavy:
        return gpus, max(pool.min_actors, pool.max_actors or int(have // gpus if gpus else 1))
    return gpus, max(pool.min_actors, pool.max_actors or 2)


def _prepare(scorer: ScorerSettings, folder: Path, pool: ScoringPool) -> dict[str, Any]:
    """Let the scorer make what its actors share, where a GPU can be had if it needs one."""
    from sftfilter.scorers.contract import ScorerSettings

    if type(scorer).prepare is ScorerSettings.prepare:
        return {}
    import ray
    import ray.exceptions

    gpus, _ = _resources(scorer, pool)
    task = ray.remote(num_gpus=gpus, num_cpus=pool.cpus_per_actor, max_retries=0)(_prepare_there)
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
    scorer.prepare(Path(folder), device)


def _score(
    scorer: ScorerSettings, prepared: Path, rollouts: Artifact, done: pa.ChunkedArray, parts: Path, pool: ScoringPool
) -> Iterator[int]:
    """Score the rows that are not done; yields how many, batch by batch."""
    import ray.data
    import ray.exceptions

    gpus, actors = _resources(scorer, pool)
    columns = ["rollout_id", *scorer.needs]
    rows = ray.data.read_parquet(str(rollouts.path / "rollouts.parquet")).select_columns(columns)
    if len(done):
        rows = _without(rows, done)
    counted = rows.map_batches(
        FilterActor,
        fn_constructor_args=(scorer, str(prepared), str(parts), "cuda" if gpus else "cpu", pool.threads),
        batch_size=pool.batch or scorer.batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=pool.min_actors, max_size=actors),
        num_cpus=pool.cpus_per_actor,
        num_gpus=gpus,
    )
    try:
        for batch in counted.iter_batches(batch_size=None, batch_format="numpy"):
            yield int(sum(batch["rows"]))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SftfilterError):
            raise error.cause from None
        raise


def _without(rows: ray.data.Dataset, done: pa.ChunkedArray) -> ray.data.Dataset:
    import ray

    known = ray.put(done.combine_chunks())

    def open_rows(batch: pa.Table) -> pa.Table:
        import pyarrow.compute as pc

        return batch.filter(pc.invert(pc.is_in(batch["rollout_id"], ray.get(known))))  # pyright: ignore[reportAttributeAccessIssue]

    return rows.map_batches(open_rows, batch_format="pyarrow", batch_size=None, num_cpus=0.25)


def _gather(name: str, fingerprint: str, ids: pa.ChunkedArray, parts: Path, folder: Path) -> dict[str, int]:
    """Write the table `scores`: the parts' rows, in the order of the rollouts."""
    import polars as pl

    wanted = pl.DataFrame({"rollout_id": ids})
    found = wanted.lazy().join(read_parts(parts), on="rollout_id", how="left", maintain_order="left").collect()
    lost = found.filter(pl.col("score").is_null() & pl.col("error").is_null())["rollout_id"]
    if len(lost) or len(found) != len(wanted):
        raise DataError(
            f"scorer {name}: {len(wanted)} rollouts went in and {len(found) - len(lost)} scores came out; "
            f"without one: {', '.join(lost[:5].to_list()) or 'none, but ids are doubled'}"
        )
    constant = [pl.lit(name).alias("scorer"), pl.lit(fingerprint).alias("fingerprint")]
    ordered = found.with_columns(constant).select("rollout_id", "scorer", "score", "error", "detail", "fingerprint")
    ordered.write_parquet(folder / "scores.parquet", compression="zstd", compression_level=1)
    return {"rows": len(wanted), "errors": int(found["score"].null_count())}


def _check_errors(name: str, counts: dict[str, int], parts: Path, budget: float) -> None:
    if counts["errors"] <= budget * counts["rows"]:
        return
    import polars as pl

    failed = read_parts(parts).filter(pl.col("error").is_not_null()).head(5).collect()
    named = "\n".join(f"  rollout {r['rollout_id']}: {r['error']}" for r in failed.to_dicts())
    raise DataError(
        f"scorer {name}: {counts['errors']} of {counts['rows']} rows have no score, more than error_budget {budget:g} "
        f"allows:\n{named}\nThe others are kept; mend the cause and run again, or raise `error_budget`."
    )
