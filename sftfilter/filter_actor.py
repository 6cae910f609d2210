"""The Ray Data actor that scores: it reads its rows, scores and keeps them."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter import run_log
from sftfilter.actor_failures import with_failure
from sftfilter.attempts import attempt
from sftfilter.errors import DataError, SftfilterError
from sftfilter.row_units import UnitReader, describe
from sftfilter.score_store import write_part

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.scorers.contract import LoadedScorer, Scored, ScorerSettings

_LOGGER = logging.getLogger(__name__)
REMEDY = "lower `scoring_pool.batch` or `scoring_pool.max_actors`, or take the row out, and run again; what is scored is kept"


class FilterActor:
    """Scores units of work (see `row_units`). A row that cannot be scored gets an error, never a zero."""

    def __init__(
        self,
        scorer: ScorerSettings,
        prepared: str,
        parts: str,
        run: str,
        device: str,
        threads: int | None,
        log: run_log.Told | None = None,
    ) -> None:
        import ray

        run_log.join(log, "scorer")

        self.parts, self.run = Path(parts), Path(run)
        self.rows = UnitReader(["rollout_id", *scorer.needs])
        self.failure: SftfilterError | None = None
        if scorer.heavy:
            import os

            import torch

            torch.set_num_threads(threads or os.cpu_count() or 1)
        try:
            actor = ray.get_runtime_context().get_actor_id()
            with attempt(self.run, f"loading {type(scorer).__name__} in actor {actor}", REMEDY):
                self.scorer = scorer.load(Path(prepared), device)
            _LOGGER.info("%s is loaded", type(scorer).__name__, extra={"device": device})
        except SftfilterError as error:
            self.failure = error
            _LOGGER.error("%s", error)

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Rows dealt with, seconds that scoring took, and the error that stopped the work if one did."""
        import pyarrow as pa

        rows, seconds = 0, 0.0
        try:
            if self.failure:
                raise self.failure
            with attempt(self.run, f"scoring {describe(unit)}", REMEDY):
                batch = self.rows.read(unit)
                began = time.perf_counter()
                scored = score_rows(self.scorer, batch)
                seconds = time.perf_counter() - began
                write_part(self.parts, pa.table({"rollout_id": batch["rollout_id"], **scored}))
                rows = batch.num_rows
        except SftfilterError as error:
            self.failure = error  # what is still queued for this actor would fail alike
            _LOGGER.error("%s", error)
        return with_failure(pa.table({"rows": [rows], "seconds": [seconds]}), self.failure)


def score_rows(scorer: LoadedScorer, batch: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Columns score, error and detail. A batch that raises is scored in halves, so that one row costs only itself."""
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
