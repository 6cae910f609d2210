"""What could have been found, and how many prompts and training seeds it takes to find it.

A study to come is described by its variance components: how much what a cell [prompt, seed] adds to an estimand varies
between prompts, between training seeds, and beyond both (Searle, Casella and McCulloch 1992, chapter 4). Prompts crossed
with seeds are the design of participants crossed with stimuli, whose power Westfall, Kenny and Judd (2014) work out: with
few seeds more prompts help only down to the seeds' own variance. Power is that of Student's test on the mean, from the
noncentral t distribution (Cohen 1988, chapter 2), with the degrees of freedom that `components` will give the interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as sps
from scipy.optimize import brentq
from statsmodels.stats.power import TTestPower

from sftfilter.stats.crossed import Component, combined, mean_squares
from sftfilter.stats.rates import Cells

_SURE = 60.0
"""Standard errors from zero that are found whatever the degrees of freedom."""
_MOST_PROMPTS, _MOST_SEEDS = 1_000_000, 1_000


def detectable_difference(cells_a: Cells, cells_b: Cells, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Smallest difference of two paired means that would be found with the given power, from the observed spread.

    Prompts are the unit; with several seeds each prompt's mean over them is used.
    """
    difference = _differences(cells_a, cells_b)
    if len(difference) < 2:
        return None
    z = float(sps.norm.ppf(1 - alpha / 2) + sps.norm.ppf(power))
    return z * _spread(difference) / math.sqrt(len(difference))


def prompts_needed(
    cells_a: Cells, cells_b: Cells, difference: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Prompts that both students must answer to find a difference of this size, from the spread seen so far."""
    seen = _differences(cells_a, cells_b)
    if len(seen) < 2 or difference == 0:
        return None
    effect = abs(difference) / _spread(seen)
    if effect > 5:  # the solver has no root below two prompts
        return 2
    return math.ceil(float(TTestPower().solve_power(effect_size=effect, power=power, alpha=alpha)))


def _differences(cells_a: Cells, cells_b: Cells) -> np.ndarray:
    kept = ~(np.isnan(cells_a).all(axis=1) | np.isnan(cells_b).all(axis=1))
    difference = np.nanmean(cells_a[kept], axis=1) - np.nanmean(cells_b[kept], axis=1)
    return difference[np.isfinite(difference)]


def _spread(difference: np.ndarray) -> float:
    """Standard deviation over prompts; never below what a single differing prompt would give."""
    return max(float(difference.std(ddof=1)), math.sqrt(0.25 / len(difference)))


@dataclass(frozen=True)
class Variances:
    """Variance components of one cell: between prompts, between training seeds, and the rest."""

    prompt: float
    seed: float
    rest: float

    def planned(self, prompts: int, seeds: int) -> Component:
        """Standard error and degrees of freedom of a mean over so many (two prompts at least), as `components` finds them.

        With one seed the interval covers prompts only, so the seeds' variance is left out here as it is there.
        """
        if seeds == 1:
            return Component(math.sqrt((self.prompt + self.rest) / prompts), prompts - 1)
        expected = np.array([seeds * self.prompt, prompts * self.seed, 0.0]) + self.rest
        return combined(expected, prompts, seeds)


def variances_of(values: Cells) -> Variances:
    """Components of a pilot's cells [prompt, seed] by the analysis of variance (Cornfield and Tukey 1956), none below zero.

    With one seed what belongs to the prompt cannot be told from the rest; all of it counts as the prompt's, which more
    seeds do not average out. Of the seeds nothing is known then, and their component is zero.
    """
    prompts, seeds = values.shape
    if seeds == 1:
        return Variances(float(np.nanvar(values, ddof=1)), 0.0, 0.0)
    of_prompts, of_seeds, rest = (float(square) for square in mean_squares(values))
    return Variances(max(of_prompts - rest, 0.0) / seeds, max(of_seeds - rest, 0.0) / prompts, rest)


def power_of(effect: float, mean: Component, alpha: float = 0.05) -> float:
    """Chance that a two-sided test of a mean that is `effect` finds it to differ from zero."""
    if mean.standard_error == 0:
        return 1.0 if effect else alpha
    away = abs(effect) / mean.standard_error
    if away > _SURE:
        return 1.0
    bound = float(sps.t.ppf(1 - alpha / 2, mean.freedom))
    right, wrong = sps.nct.sf(bound, mean.freedom, away), sps.nct.cdf(-bound, mean.freedom, away)
    return float(np.nan_to_num(right, nan=float(away > bound)) + np.nan_to_num(wrong))  # scipy gives up in far tails


def detectable_effect(variances: Variances, prompts: int, seeds: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest mean that is found with this power."""
    mean = variances.planned(prompts, seeds)
    if mean.standard_error == 0:
        return 0.0
    unit = Component(1.0, mean.freedom)
    root: Any = brentq(lambda effect: power_of(effect, unit, alpha) - power, 0.0, _SURE)
    return mean.standard_error * float(root)


def least_prompts(
    variances: Variances, seeds: int, effect: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """The fewest prompts that find an effect with so many seeds; None where no number of them does."""
    return _least(lambda n: power_of(effect, variances.planned(n, seeds), alpha) >= power, 2, _MOST_PROMPTS)


def least_seeds(
    variances: Variances, prompts: int, effect: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """The fewest seeds, two at least, that find an effect with so many prompts; None where no number of them does."""
    return _least(lambda n: power_of(effect, variances.planned(prompts, n), alpha) >= power, 2, _MOST_SEEDS)


def _least(reaches: Callable[[int], bool], low: int, high: int) -> int | None:
    """By bisection, between numbers that double."""
    top = low
    while not reaches(top):
        if top >= high:
            return None
        low, top = top, min(2 * top, high)
    while top - low > 1:
        middle = (low + top) // 2
        low, top = (low, middle) if reaches(middle) else (middle, top)
    return low if reaches(low) else top
