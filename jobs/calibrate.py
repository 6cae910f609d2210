"""Job `calibrate`, one stage a line: rows of two teachers are scored once; every mixture is a choice among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.calibrate_outcome import write_calibration
from jobs.calibrate_retrain import Retrained, retrain
from jobs.console import Stages
from jobs.experiment import read_prompts
from jobs.kinds.calibrate import Calibrate
from jobs.outcome import freeze_gates
from jobs.tutoring import load_base, make_rollouts, tune_teachers
from serve.host import check_port
from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DataError
from sftfilter.mixtures import Mixture, Pairs, eligible, pair_rows, plant, planted_rows
from sftfilter.scoring import score_rollouts
from sftfilter.selector_bench import ScoredPairs, Worth, measure, resampled_prompts

if TYPE_CHECKING:
    import polars as pl

POOL_VERSION = 1


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


def run_calibration(spec: Calibrate, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Run every stage that is not there yet, on the Ray cluster that is connected; answers results.json."""
    if spec.retrain:
        check_port(spec.serving)
        freeze_gates(root / spec.name, spec.retrain.model_dump(mode="json"))
    store = Store(root / "artifacts")
    base = load_base(spec)
    with stages.stage("prompts", "read, checked, duplicates named"):
        prompts = stages.note(read_prompts(spec, base, store))
        heldout = {name: stages.note(read_prompts(spec, base, store, name), name) for name in spec.traits}
        check_apart(prompts, heldout[spec.trait])
    with stages.stage("teachers", "tuned from the base where the spec says so"):
        teachers = tune_teachers(spec, base, store, root / spec.name, stages)
    with stages.stage("rollouts", f"{', '.join(spec.teachers)} answer every prompt"):
        rollouts = make_rollouts(spec, base, teachers, prompts, store, stages)
        pool = stages.note(pool_rollouts(spec, rollouts, store), "both teachers' rows")
    with stages.stage("scores", ", ".join(spec.scorers)):
        scores = score_pool(spec, pool, store, stages)
    with stages.stage("mixtures", f"{len(spec.rates)} rates x {len(spec.subtleties)} subtleties x {spec.draws} draws"):
        bench = run_bench(spec, prompts, rollouts, scores, stages)
    retrained: Retrained | None = None
    if spec.retrain:
        with stages.stage("students", f"on the mixture of {spec.retrain.subtlety} rows at {spec.retrain.rate:.0%}"):
            retrained = retrain(spec, base, bench.pairs, bench.mixtures, bench.scored, bench.worth, rollouts, heldout,
                                store, root / spec.name, stages)  # fmt: skip
    with stages.stage("outcome", "table, recommendation"):
        return write_calibration(spec, root, bench, scores, pool, retrained, stages, command)


def check_apart(prompts: Artifact, heldout: Artifact) -> None:
    """Raise DataError when a held-out prompt is among those whose rows students are trained on."""
    shared = set(prompts.table("prompts")["prompt_id"].to_pylist()) & set(
        heldout.table("prompts")["prompt_id"].to_pylist()
    )
    if shared:
        raise DataError(
            f"{len(shared)} held-out prompts are training prompts as well (prompt_id {', '.join(sorted(shared)[:5])}): "
            "take them out of one of the files"
        )


def pool_rollouts(spec: Calibrate, rollouts: Mapping[str, Artifact], store: Store) -> Artifact:
    """Both teachers' rows in one table, so that a scorer's model is loaded once."""
    chosen = {name: rollouts[name] for name in (spec.clean_teacher, spec.trait_teacher)}

    def make(folder: Path) -> dict[str, Any]:
        import polars as pl

        parts = [pl.scan_parquet(a.path / "rollouts.parquet") for a in chosen.values()]
        rows = pl.concat(parts).unique("rollout_id", keep="first", maintain_order=True)
        rows.sink_parquet(folder / "rollouts.parquet")
        return {"used": int(rows.select(pl.len()).collect().item())}

    inputs = {name: artifact.key for name, artifact in chosen.items()}
    return store.build("pool", version=POOL_VERSION, settings={}, inputs=inputs, make=make)


def score_pool(spec: Calibrate, pool: Artifact, store: Store, stages: Stages) -> dict[str, Artifact]:
    """Scorer -> scores of every row of both teachers."""
    made: dict[str, Artifact] = {}
    for name, scorer in spec.scorers.items():
        with stages.bar(pool.meta["used"], name) as bar:
            made[name] = score_rollouts(
                name,
                scorer,
                pool,
                store=store,
                pool=spec.scoring_pool,
                error_budget=spec.error_budget,
                on_rows=bar.advance,
            )
        stages.note(made[name], name)
    return made


def run_bench(
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
                worth[scorer, subtlety, rate] = measure(values, drawn, weights, compared=len(scored))
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
