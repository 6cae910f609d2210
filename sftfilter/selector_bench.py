"""What a scorer's order of a mixture is worth, with intervals from a bootstrap over prompts.

Every measure is a mean over the draws of a mixture, so that the luck of which rows were planted averages out. In each
replicate the prompts are drawn anew, the same ones for every scorer and draw, and the mean over draws is taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftfilter.mixtures import Mixture
from sftfilter.ranking import Floats, Order, Sums
from sftfilter.stats import Estimate

_CELLS = 2_000_000
"""Replicates times rows held at once: 16 MB a matrix."""

MEASURES: Mapping[str, Callable[[Sums], Floats]] = {
    "auprc": Sums.average_precision,
    "auroc": Sums.auroc,
    "precision": lambda sums: sums.recall_at(1),
    "recall_at_twice": lambda sums: sums.recall_at(2),
}


@dataclass(frozen=True)
class ScoredPairs:
    """One scorer's scores of the clean and the trait rows, place by place of `Pairs.rows`; NaN where there is none."""

    clean: Floats
    trait: Floats

    def of(self, mixture: Mixture) -> Floats:
        """Scores of a mixture's rows. A row without a score goes last: no selector would take it."""
        scores = np.where(mixture.planted, self.trait, self.clean)
        return np.where(np.isnan(scores), -np.inf, scores)


@dataclass(frozen=True)
class Worth:
    """What a scorer is worth on mixtures of one rate and subtlety.

    Attributes:
        auprc: average precision; the rate is what a random order gets.
        auroc: 0.5 is what a random order gets.
        precision: share of planted rows among the first as many rows as were planted, which is also their recall there.
        recall_at_twice: share of the planted rows among the first twice as many.
        auroc_strict: the interval of `auroc` at the level that allows for the number of comparisons.
    """

    auprc: Estimate
    auroc: Estimate
    precision: Estimate
    recall_at_twice: Estimate
    auroc_strict: tuple[float | None, float | None]

    @property
    def better_than_chance(self) -> bool:
        """Whether the planted rows are ranked higher than others, by more than luck."""
        return self.auroc_strict[0] is not None and self.auroc_strict[0] > 0.5

    @property
    def reversed(self) -> bool:
        """Whether they are ranked lower, by more than luck: the scorer's sign is wrong for this trait."""
        return self.auroc_strict[1] is not None and self.auroc_strict[1] < 0.5

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        named = {name: getattr(self, name).as_dict() for name in MEASURES}
        return named | {"better_than_chance": self.better_than_chance, "reversed": self.reversed}


def resampled_prompts(count: int, replicates: int, seed: int) -> NDArray[np.int32]:
    """How often each of `count` prompts is drawn in each replicate, [replicates, count]."""
    return np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=replicates).astype(np.int32)


def measure(
    scores: ScoredPairs, mixtures: Sequence[Mixture], weights: NDArray[np.int32], *, compared: int, level: float = 0.95
) -> Worth:
    """A scorer's worth on the draws of one mixture.

    Args:
        weights: from `resampled_prompts`, shared by all scorers so that they stay paired.
        compared: how many such questions are asked, over scorers and subtleties (Bonferroni, for `auroc_strict`).
    """
    points: dict[str, list[float]] = {name: [] for name in MEASURES}
    drawn = {name: np.zeros((len(mixtures), len(weights))) for name in MEASURES}
    for d, mixture in enumerate(mixtures):
        order = Order.of(scores.of(mixture), mixture.planted)
        for name, values in _all(order.sums()).items():
            points[name].append(float(values[0]))
        step = max(1, _CELLS // len(mixture.planted))
        for first in range(0, len(weights), step):
            part = slice(first, first + step)
            for name, values in _all(order.sums(weights[part].astype(np.float64))).items():
                drawn[name][d, part] = values
    planted = int(mixtures[0].planted.sum())
    found = {name: _estimate(np.mean(points[name]), drawn[name], planted, level) for name in MEASURES}
    strict = _estimate(np.mean(points["auroc"]), drawn["auroc"], planted, 1 - (1 - level) / compared)
    return Worth(**found, auroc_strict=(strict.low, strict.high))


def _all(sums: Sums) -> dict[str, Floats]:
    return {name: take(sums) for name, take in MEASURES.items()}


def _estimate(point: float | np.floating[Any], drawn: Floats, planted: int, level: float) -> Estimate:
    """Percentile interval of the mean over draws [D, B]; a draw of which no planted row was drawn anew is left out."""
    usable = drawn[:, ~np.isnan(drawn).all(axis=0)]
    if usable.shape[1] < 0.95 * drawn.shape[1]:
        return Estimate(float(point), None, None, planted)
    means = np.nanmean(usable, axis=0)
    tail = (1 - level) / 2
    return Estimate(float(point), float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail)), planted)


def highest(scores: Floats, count: int, seed: int) -> NDArray[np.bool_]:
    """The `count` highest scores; which of equal ones is drawn from the seed. A row without a score is never taken."""
    known = np.flatnonzero(np.isfinite(scores))
    drawn = np.random.default_rng(seed).permutation(known)
    taken = drawn[np.argsort(-scores[drawn], kind="stable")[:count]]
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[taken] = True
    return chosen
