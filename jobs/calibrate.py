"""Job `calibrate`, one stage a line: rows of two teachers are scored once; every mixture is a choice among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.calibrate_bench import measure_scorers
from jobs.calibrate_outcome import write_calibration
from jobs.calibrate_retrain import Retrained, retrain
from jobs.console import Stages
from jobs.experiment import read_prompts
from jobs.guards import keep_apart, keep_examples_apart
from jobs.kinds.calibrate import Calibrate
from jobs.outcome import freeze_gates
from jobs.tutoring import load_base, make_rollouts, tune_teachers
from serve.host import check_port
from sftfilter.artifacts import Artifact, Store
from sftfilter.scoring import score_rollouts

POOL_VERSION = 1


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
    with stages.stage("guards", f"prompts that contain evaluation prompts: {spec.contamination.action}"):
        prompts, overlaps = keep_apart(spec, prompts, heldout, store, stages)
        learned = {"scorers": spec.scorers, "teachers": spec.teachers}
        keep_examples_apart(spec.contamination, learned, heldout, store, stages)
    with stages.stage("teachers", "tuned from the base where the spec says so"):
        teachers = tune_teachers(spec, base, store, root / spec.name, stages)
    with stages.stage("rollouts", f"{', '.join(spec.teachers)} answer every prompt"):
        rollouts = make_rollouts(spec, base, teachers, prompts, store, stages)
        pool = stages.note(pool_rollouts(spec, rollouts, store), "both teachers' rows")
    with stages.stage("scores", ", ".join(spec.scorers)):
        scores = score_pool(spec, pool, store, stages)
    with stages.stage("mixtures", f"{len(spec.rates)} rates x {len(spec.subtleties)} subtleties x {spec.draws} draws"):
        bench = measure_scorers(spec, prompts, rollouts, scores, stages)
    retrained: Retrained | None = None
    if spec.retrain:
        with stages.stage("students", f"on the mixture of {spec.retrain.subtlety} rows at {spec.retrain.rate:.0%}"):
            retrained = retrain(spec, base, bench, rollouts, heldout, store, root / spec.name, stages)
    with stages.stage("outcome", "table, recommendation"):
        return write_calibration(spec, root, bench, scores, overlaps, retrained, stages, command)


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
