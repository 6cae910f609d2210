"""What could have been found, and how many prompts it takes to find it."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats as sps
from statsmodels.stats.power import TTestPower

from sftfilter.stats.rates import Cells


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
