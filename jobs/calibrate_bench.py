"""Mixtures of two teachers' rows, and every scorer's worth on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.console import Stages
from jobs.kinds.calibrate import Calibrate
from sftfilter.artifacts import Artifact
from sftfilter.errors import DataError
from sftfilter.mixtures import Mixture, Pairs, eligible, pair_rows, plant, planted_rows
from sftfilter.selector_bench import ScoredPairs, Worth, measure, resampled_prompts

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        mixtures: by subtlety and rate.
        worth: by scorer, subtlety and rate.
        skipped: why a subtlety and rate could not be mixed.
    """

    pairs: Pairs
    mixtures: Mapping[tuple[str, float], list[Mixture]]
    scored: Mapping[str, ScoredPairs]
    worth: Mapping[tuple[str, str, float], Worth]
    skipped: Mapping[tuple[str, float], str]


def measure_scorers(
    spec: Calibrate,
    prompts: Artifact,
    rollouts: Mapping[str, Artifact],
    scores: Mapping[str, Artifact],
    stages: Stages,
) -> Bench:
    """Build the mixtures and measure every scorer on each."""
    graded = {name: graded_rows(spec, prompts, rollouts[name]) for name in (spec.clean_teacher, spec.trait_teacher)}
    pairs = pair_rows(graded[spec.clean_teacher], graded[spec.trait_teacher])
    mixtures: dict[tuple[str, float], list[Mixture]] = {}
    skipped: dict[tuple[str, float], str] = {}
    for name, subtlety in spec.subtleties.items():
        made = plant(pairs, name, subtlety, spec.rates, draws=spec.draws, seed=spec.seed)
        mixtures |= {(name, rate): drawn for rate, drawn in made.items()}
        have = len(eligible(pairs, subtlety))
        for rate in set(spec.rates) - set(made):
            needed = planted_rows(pairs, rate)
            skipped[name, rate] = f"{needed} rows would have to be planted, {spec.trait_teacher} has {have} such rows"
    if not mixtures:
        raise DataError(
            "no mixture can be made: " + "; ".join(f"{n} at {r:.0%}: {why}" for (n, r), why in skipped.items())
        )
    scored = {name: scored_pairs(pairs, artifact) for name, artifact in scores.items()}
    weights = resampled_prompts(len(pairs.rows), spec.replicates, spec.seed)
    worth: dict[tuple[str, str, float], Worth] = {}
    with stages.bar(len(scored) * len(mixtures), "mixtures") as bar:
        for scorer, values in scored.items():
            for (subtlety, rate), drawn in mixtures.items():
                # Rates are no further comparisons: the lower ones' rows are among the higher's.
                compared = len(scored) * len(spec.subtleties)
                worth[scorer, subtlety, rate] = measure(values, drawn, weights, compared=compared)
                bar.advance()
    return Bench(pairs, mixtures, scored, worth, skipped)


def graded_rows(spec: Calibrate, prompts: Artifact, rollouts: Artifact) -> pl.DataFrame:
    """Columns rollout_id, prompt_id, kind, and shows: whether the trait's grader sees the trait in the row."""
    import polars as pl

    trait = spec.traits[spec.trait]
    prompt = pl.col("messages").list.last().struct.field("content").alias("prompt")
    rows = pl.read_parquet(rollouts.path / "rollouts.parquet").select("rollout_id", "prompt_id", prompt, "completion")
    kinds = pl.read_parquet(prompts.path / "prompts.parquet").select("prompt_id", "kind")
    shows = [trait.grade(p, c) for p, c in rows.select("prompt", "completion").iter_rows()]
    graded = rows.select("rollout_id", "prompt_id").with_columns(pl.Series("shows", shows, pl.Float64))
    return graded.join(kinds, on="prompt_id", how="left").select("rollout_id", "prompt_id", "kind", "shows")


def scored_pairs(pairs: Pairs, scores: Artifact) -> ScoredPairs:
    """A scorer's scores of the paired rows."""
    import polars as pl

    table = pl.read_parquet(scores.path / "scores.parquet").select("rollout_id", "score")

    def column(side: str) -> Any:
        joined = pairs.rows.select(side).join(
            table, left_on=side, right_on="rollout_id", how="left", maintain_order="left"
        )
        return joined["score"].fill_null(float("nan")).to_numpy()

    return ScoredPairs(column("clean"), column("trait"))
