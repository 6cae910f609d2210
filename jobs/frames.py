"""The score frame of a job on stored rollouts, which selectors and interventions are decided over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobs.score import Scored
from sftfilter.artifacts import Artifact
from sftfilter.interventions import reserve_pool
from sftfilter.score_frame import ScoreFrame, score_frame
from sftfilter.selectors import Selector, lists_ids, needs_lengths

if TYPE_CHECKING:
    import polars as pl


def frame_of(
    selectors: Mapping[str, Selector], scored: Scored, reserve: Mapping[str, Artifact] | None = None
) -> ScoreFrame:
    """Every teacher's rows and scores, and the reserve's rows under their own name."""
    import polars as pl

    rollouts = {teacher: _scan(artifact, "rollouts") for teacher, artifact in scored.rollouts.items()}
    rollouts |= {reserve_pool(teacher): _scan(a, "rollouts") for teacher, a in (reserve or {}).items()}
    scorers = dict.fromkeys(scorer for _, scorer in scored.scores)
    scores = {
        name: pl.concat([_scan(a, "scores") for (_, scorer), a in scored.scores.items() if scorer == name])
        for name in scorers
    }
    return score_frame(rollouts, scores, lengths=needs_lengths(selectors), source_ids=lists_ids(selectors))


def _scan(artifact: Artifact, table: str) -> pl.LazyFrame:
    import polars as pl

    return pl.scan_parquet(artifact.path / f"{table}.parquet", glob=False)
