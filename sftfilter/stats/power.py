"""What could have been found, and how many prompts and training seeds it takes to find it.

A study to come is described by its variance components: how much what a cell [prompt, seed] adds to an estimand varies
between prompts, between training seeds, beyond both, and between samples of one prompt (Searle, Casella and McCulloch
1992, chapter 4). Prompts crossed with seeds are the design of participants crossed with stimuli, whose power Westfall,
Kenny and Judd (2014) work out: with few seeds more prompts help only down to the seeds' own variance, and more samples
only down to what is left when their own is gone. Power is that of Student's test on the mean, from the
noncentral t distribution (Cohen 1988, chapter 2), with the degrees of freedom that `components` will give the interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats as sps
from scipy.optimize import brentq

from sftfilter.stats.crossed import Component, combined, mean_squares
from sftfilter.stats.rates import Cells

_SURE = 60.0
"""Standard errors from zero that are found whatever the degrees of freedom."""
_MOST_PROMPTS, _MOST_SEEDS, _MOST_SAMPLES = 1_000_000, 1_000, 1_000


@dataclass(frozen=True)
class Variances:
    """Variance components of one sample of a cell [prompt, seed].

    Attributes:
        prompt: between prompts, the same with every seed.
        seed: between training seeds, the same on every prompt.
        rest: how single seeds take single prompts, the same in every sample.
        sample: between samples of one prompt from one seed's student; only this is averaged out by more samples.
    """

    prompt: float
    seed: float
    rest: float
    sample: float = 0.0

    def planned(self, prompts: int, seeds: int, samples: int = 1) -> Component:
        """Standard error and degrees of freedom of a mean over so many (two prompts at least), as `components` finds them.

        With one seed the interval covers prompts only, so the seeds' variance is left out here as it is there.
        """
        rest = self.rest + self.sample / samples
        if seeds == 1:
            return Component(math.sqrt((self.prompt + rest) / prompts), prompts - 1)
        expected = np.array([seeds * self.prompt, prompts * self.seed, 0.0]) + rest
        return combined(expected, prompts, seeds)


def sample_variance(cells: Cells, samples: int) -> float:
    """Variance between samples of one cell, from means [prompt, seed] of so many grades of 0 or 1, two at least.

    The mean of m (1 - m) x samples / (samples - 1) over cells, which is unbiased. Of grades between 0 and 1 it is the most
    that their variance can be (Bhatia and Davis 2000).
    """
    return float(np.nanmean(cells * (1 - cells))) * samples / (samples - 1)


def variances_of(values: Cells, samples: int = 1, sample: float = 0.0) -> Variances:
    """Components of a pilot's cells [prompt, seed] by the analysis of variance (Cornfield and Tukey 1956), none below zero.

    With one seed what belongs to the prompt cannot be told from the rest; all of it counts as the prompt's, which more
    seeds do not average out. Of the seeds nothing is known then, and their component is zero.

    Args:
        samples: that each value is the mean of.
        sample: variance between these, as far as it is known; it is taken off what the samples' mean leaves of it.
    """
    prompts, seeds = values.shape
    if seeds == 1:
        return Variances(max(float(np.nanvar(values, ddof=1)) - sample / samples, 0.0), 0.0, 0.0, sample)
    of_prompts, of_seeds, rest = (float(square) for square in mean_squares(values))
    return Variances(
        max(of_prompts - rest, 0.0) / seeds, max(of_seeds - rest, 0.0) / prompts, *_apart(rest, samples, sample)
    )


def _apart(rest: float, samples: int, sample: float) -> tuple[float, float]:
    """The rest and the samples' variance, which together leave `rest` in the mean of so many samples."""
    return max(rest - sample / samples, 0.0), min(sample, rest * samples)


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


def detectable_effect(
    variances: Variances, prompts: int, seeds: int, samples: int = 1, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest mean that is found with this power."""
    mean = variances.planned(prompts, seeds, samples)
    if mean.standard_error == 0:
        return 0.0
    unit = Component(1.0, mean.freedom)
    root: Any = brentq(lambda effect: power_of(effect, unit, alpha) - power, 0.0, _SURE)
    return mean.standard_error * float(root)


def least_prompts(
    variances: Variances, seeds: int, effect: float, samples: int = 1, *, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """The fewest prompts that find an effect with so many seeds; None where no number of them does."""
    return _least(lambda n: power_of(effect, variances.planned(n, seeds, samples), alpha) >= power, 2, _MOST_PROMPTS)


def least_seeds(
    variances: Variances, prompts: int, effect: float, samples: int = 1, *, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """The fewest seeds, two at least, that find an effect with so many prompts; None where no number of them does."""
    return _least(lambda n: power_of(effect, variances.planned(prompts, n, samples), alpha) >= power, 2, _MOST_SEEDS)


def least_samples(
    variances: Variances, prompts: int, seeds: int, effect: float, *, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """The fewest samples of each prompt that find an effect with so many prompts and seeds; None where no number does."""
    return _least(lambda n: power_of(effect, variances.planned(prompts, seeds, n), alpha) >= power, 1, _MOST_SAMPLES)


def detectable_difference(cells_a: Cells, cells_b: Cells, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Smallest difference of two paired means that the test of `paired_difference` would find with the given power.

    From the observed spread over prompts and training seeds; with one seed over prompts only, as the test has it.
    """
    seen = _difference(cells_a, cells_b)
    return detectable_effect(*seen, power=power, alpha=alpha) if seen else None


def prompts_needed(
    cells_a: Cells, cells_b: Cells, difference: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Prompts that both students must answer to find a difference of this size, with as many seeds as there are.

    None where no number of prompts finds it: what seeds differ by is not averaged out by prompts.
    """
    seen = _difference(cells_a, cells_b)
    return least_prompts(seen[0], seen[2], difference, power=power, alpha=alpha) if seen and difference else None


def seeds_needed(
    cells_a: Cells, cells_b: Cells, difference: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Training seeds that find a difference of this size on as many prompts as there are; None where no number does.

    With one seed there, nothing is known of what seeds differ by: None as well.
    """
    seen = _difference(cells_a, cells_b)
    known = seen and seen[2] > 1 and difference
    return least_seeds(*seen[:2], difference, power=power, alpha=alpha) if seen and known else None


def _difference(cells_a: Cells, cells_b: Cells) -> tuple[Variances, int, int] | None:
    """Variances of first minus second, prompts and seeds; None with fewer than two prompts, or no seed.

    The variance over prompts is never below what a single differing prompt would give.
    """
    both = cells_a - cells_b
    both = both[~np.isnan(both).all(axis=1)]
    prompts, seeds = both.shape
    if prompts < 2 or not seeds:
        return None
    found = variances_of(both)
    least = 0.25 / prompts - found.rest / seeds
    return replace(found, prompt=max(found.prompt, least)), prompts, seeds


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
