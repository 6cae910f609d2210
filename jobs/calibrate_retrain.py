"""What removing a scorer's rows is worth to a student: against removing nothing, as many at random, and the right ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.calibrate_bench import Bench
from jobs.console import Stages
from jobs.evaluating import evaluate_models
from jobs.grades import prompt_means
from jobs.kinds.calibrate import Calibrate
from jobs.planning import plan_rows, rows_of
from jobs.students import hosted_checkpoint, train_runs
from jobs.tutoring import Base
from sftfilter import stats
from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import SpecError
from sftfilter.mixtures import Mixture, Pairs
from sftfilter.selector_bench import ScoredPairs, Worth, highest
from sftfilter.training import TrainingRun

CLEAN, NOTHING, ORACLE, RANDOM = "all clean", "nothing removed", "oracle", "random removal"
_Keep = Callable[[int], NDArray[np.bool_]]
"""Training seed -> which of the mixture's rows are kept."""


@dataclass(frozen=True)
class RetrainArm:
    """One way to treat the mixture."""

    name: str
    scorer: str | None
    removed: int
    planted_left: int
    rates: Mapping[str, stats.Estimate]


@dataclass(frozen=True)
class Recovered:
    """How much of what the oracle achieves a scorer's removal does.

    Attributes:
        share: (nothing removed - scorer) / (nothing removed - oracle).
        below_random: trait after removing at random less trait after removing what the scorer found.
    """

    share: stats.Estimate
    below_random: stats.Estimate


@dataclass(frozen=True)
class Retrained:
    """All arms on one mixture, and what follows.

    Attributes:
        gap: trait with nothing removed less that of the student of clean rows.
        oracle_gain: trait with nothing removed less that with exactly the planted rows removed.
        problem: why nothing can be said of the scorers; None where something can.
    """

    arms: Sequence[RetrainArm]
    gap: stats.Estimate
    oracle_gain: stats.Estimate
    problem: str | None
    recovered: Mapping[str, Recovered]
    seeds: int

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        arms = [vars(a) | {"rates": {g: e.as_dict() for g, e in a.rates.items()}} for a in self.arms]
        recovered = {
            name: {"share": r.share.as_dict(), "below_random": r.below_random.as_dict()}
            for name, r in self.recovered.items()
        }
        return {
            "arms": arms,
            "gap": self.gap.as_dict(),
            "oracle_gain": self.oracle_gain.as_dict(),
            "problem": self.problem,
            "recovered": recovered,
            "seeds": self.seeds,
        }


def retrain(
    spec: Calibrate,
    base: Base,
    bench: Bench,
    rollouts: Mapping[str, Artifact],
    heldout: Mapping[str, Artifact],
    store: Store,
    work: Path,
    stages: Stages,
) -> Retrained:
    """Train and evaluate a student for every treatment of the first draw of the mixture.

    Scorers are chosen by the training rows alone; held-out prompts decide nothing but the result.
    """
    assert spec.retrain is not None
    pairs, where = bench.pairs, (spec.retrain.subtlety, spec.retrain.rate)
    if where not in bench.mixtures:
        raise SpecError(f"retrain: {where[0]} rows at {where[1]:.0%} cannot be mixed: {bench.skipped[where]}")
    mixture = bench.mixtures[where][0]
    best = best_scorers(spec, bench.worth)
    treatments = _treatments(mixture, {name: bench.scored[name] for name in best})
    runs: list[TrainingRun] = []
    for name, keep in treatments.items():
        ids = pairs.rows["clean"].to_list() if name == CLEAN else mixture.rollouts(pairs)
        for seed in spec.seeds:
            kept = [(p, r) for p, r, k in zip(pairs.rows["prompt_id"], ids, keep(seed), strict=True) if k]
            runs.append(_run(spec, base, name, seed, kept, pairs, list(rollouts.values())))
    students = train_runs(spec, base, runs, store, work, stages)
    models = [hosted_checkpoint(name, artifact) for name, artifact in students.items()]
    graded = evaluate_models(spec, base, models, heldout, store, stages).graded
    tables = {pair: artifact.table("results").to_pylist() for pair, artifact in graded.items()}
    scorer_of = {found_by(name): name for name in best}
    arms = [_arm(spec, name, scorer_of.get(name), keep, mixture, tables) for name, keep in treatments.items()]
    trait = spec.traits[spec.trait]
    cells = {name: _cells(spec, name, tables, trait.primary) for name in treatments}
    return conclude(spec, arms, cells, best)


def best_scorers(spec: Calibrate, worth: Mapping[tuple[str, str, float], Worth]) -> list[str]:
    """The scorers to retrain for, best first; the random ones are the control, not a candidate."""
    assert spec.retrain is not None
    where = spec.retrain.subtlety, spec.retrain.rate
    candidates = [name for name, scorer in spec.scorers.items() if scorer.kind != "random"]
    ranked = sorted(candidates, key=lambda name: (-(worth[name, *where].auprc.estimate or 0.0), name))
    return ranked[: spec.retrain.top]


def _treatments(mixture: Mixture, scored: Mapping[str, ScoredPairs]) -> dict[str, _Keep]:
    everything = np.ones(len(mixture.planted), dtype=bool)
    count = int(mixture.planted.sum())
    constant = np.zeros(len(mixture.planted))
    treatments: dict[str, _Keep] = {
        CLEAN: lambda _: everything,
        NOTHING: lambda _: everything,
        ORACLE: lambda _: ~mixture.planted,
        RANDOM: lambda seed: ~highest(constant, count, seed),
    }
    for name, scores in scored.items():
        found = highest(scores.of(mixture), count, 0)
        treatments[found_by(name)] = lambda _, found=found: ~found
    return treatments


def found_by(scorer: str) -> str:
    """Name of the arm without the rows that a scorer ranks highest."""
    return f"found by {scorer}"


def _students(spec: Calibrate, arm: str) -> list[str]:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", arm)
    return [f"{stem}-s{seed}" for seed in spec.seeds]


def _run(
    spec: Calibrate,
    base: Base,
    arm: str,
    seed: int,
    kept: Sequence[tuple[str, str]],
    pairs: Pairs,
    rollouts: Sequence[Artifact],
) -> TrainingRun:
    order = pairs.rows["prompt_id"].to_list()
    plan = plan_rows(kept, order, spec.training, seed, base.chat, rollouts)
    labels = {"arm": arm, "teacher": None, "intervention": None, "parent_model": base.name, "spec_hash": spec.spec_hash}
    name = _students(spec, arm)[spec.seeds.index(seed)]
    return TrainingRun(name, seed, rows_of(plan, rollouts), plan, spec.training, labels)


def _arm(
    spec: Calibrate,
    name: str,
    scorer: str | None,
    keep: _Keep,
    mixture: Mixture,
    tables: Mapping[tuple[str, str], list[dict[str, Any]]],
) -> RetrainArm:
    kept = keep(spec.seeds[0])
    left = 0 if name == CLEAN else int((mixture.planted & kept).sum())
    rates = {group: stats.rate(_cells(spec, name, tables, group)) for group in spec.traits[spec.trait].groups}
    return RetrainArm(name, scorer, int((~kept).sum()), left, rates)


def _cells(
    spec: Calibrate, arm: str, tables: Mapping[tuple[str, str], list[dict[str, Any]]], group: str
) -> stats.Cells:
    """Grades of an arm's students, [prompt, seed]."""
    return np.array([prompt_means(tables[student, spec.trait], group) for student in _students(spec, arm)]).T


def conclude(
    spec: Calibrate, arms: Sequence[RetrainArm], cells: Mapping[str, stats.Cells], best: Sequence[str]
) -> Retrained:
    """What the arms' grades [prompt, seed] say of the scorers in `best`."""
    assert spec.retrain is not None

    def contrast(of: Callable[[Mapping[str, Any]], Any]) -> stats.Estimate:
        return stats.crossed_bootstrap(cells, of, seed=spec.seed)

    gap = contrast(lambda m: m[NOTHING] - m[CLEAN])
    gain = contrast(lambda m: m[NOTHING] - m[ORACLE])
    problem = None
    if gap.estimate is None or gap.low is None or gap.estimate < spec.retrain.min_gap or gap.low <= 0:
        problem = (
            f"this mixture transmits no trait to speak of: with nothing removed the trait is {points(gap)} above the "
            f"clean student's, min_gap asks for {100 * spec.retrain.min_gap:.0f}"
        )
    elif gain.low is None or gain.low <= 0:
        problem = f"removing exactly the planted rows does not lower the trait ({points(gain)}), so no removal could"
    recovered = {
        name: Recovered(
            contrast(lambda m, arm=found_by(name): _ratio(m[NOTHING] - m[arm], m[NOTHING] - m[ORACLE])),
            contrast(lambda m, arm=found_by(name): m[RANDOM] - m[arm]),
        )
        for name in best
    }
    return Retrained(arms, gap, gain, problem, {} if problem else recovered, len(spec.seeds))


def _ratio(above: Any, below: Any) -> Any:
    """Element by element, over draws of the bootstrap; NaN where there is nothing to be a share of."""
    below = np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


def points(value: stats.Estimate) -> str:
    if value.estimate is None:
        return "an unknown number of points"
    interval = "" if value.low is None or value.high is None else f" [{100 * value.low:.0f} to {100 * value.high:.0f}]"
    return f"{100 * value.estimate:.0f}{interval} points"
