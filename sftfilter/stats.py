"""Intervals and contrasts on scipy: Wilson with a design effect, and a bootstrap crossed over prompts and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats as sps

Cells = np.ndarray
"""Grades of one arm as a matrix [prompt, seed], samples averaged; NaN where nothing could be graded."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; all None when nothing could be estimated."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)


def rate(cells: Cells, level: float = 0.95) -> Estimate:
    """Mean of 0/1 grades with a Wilson interval on the effective sample size.

    The effective size is p(1-p) over the prompt-clustered variance of the mean (Korn and Graubard 1998; Dean and Pagano
    2015 find Wilson the best of the intervals built on it), at most the number of graded cells and, where p is 0 or 1,
    the number of prompts. It covers sampling of prompts for the seeds at hand; contrasts resample seeds as well.
    """
    kept = cells[~np.isnan(cells).all(axis=1)]
    graded = int((~np.isnan(kept)).sum())
    if graded == 0:
        return Estimate(None, None, None, 0)
    p = float(np.nanmean(kept))
    prompts = kept.shape[0]
    effective = float(prompts)
    if 0 < p < 1 and prompts > 1:
        residual = np.nansum(kept - p, axis=1)
        variance = float((residual**2).sum()) / graded**2 * prompts / (prompts - 1)
        effective = min(p * (1 - p) / variance, graded) if variance > 0 else float(graded)
    if 0 < p < 1 and prompts > 1:
        z = float(sps.norm.ppf(0.5 + level / 2))
        effective *= (z / float(sps.t.ppf(0.5 + level / 2, prompts - 1))) ** 2  # few clusters: Student's t
    low, high = wilson(p, effective, level)
    return Estimate(p, low, high, graded)


def wilson(p: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) for a proportion seen in n rows; n may be an effective size."""
    z = float(sps.norm.ppf(0.5 + level / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean(cells: Cells, level: float = 0.95) -> Estimate:
    """Mean of any measure over prompts (seeds averaged first), with Student's t interval over prompts."""
    values = _prompt_means(cells)
    if len(values) == 0:
        return Estimate(None, None, None, 0)
    centre = float(values.mean())
    if len(values) == 1:
        return Estimate(centre, None, None, 1)
    half = float(sps.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Estimate(centre, centre - half, centre + half, len(values))


def _prompt_means(cells: Cells) -> np.ndarray:
    kept = cells[~np.isnan(cells).all(axis=1)]
    return np.nanmean(kept, axis=1) if kept.size else np.array([])


def crossed_bootstrap(
    arms: Mapping[str, Cells],
    estimand: Callable[[Mapping[str, float]], float],
    *,
    draws: int = 4000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """An estimand of arm means, resampling prompts and training seeds, each with replacement and independently.

    Args:
        arms: matrices [prompt, seed] over the same prompts and seeds, so that arms stay paired in every draw.
        estimand: from arm means to a number; NaN when it is undefined.

    Returns:
        Percentile interval; low and high are None when more than 5 % of the draws are undefined. With a single seed
        the interval covers prompts only, which callers must say.
    """
    names = list(arms)
    matrices = [arms[n] for n in names]
    prompts, seeds = matrices[0].shape
    if any(matrix.shape != matrices[0].shape for matrix in matrices):
        raise ValueError(f"arms differ in prompts or seeds: { {n: m.shape for n, m in arms.items()} }")
    point = estimand({n: float(np.nanmean(m)) for n, m in zip(names, matrices, strict=True)})
    if not math.isfinite(point):
        return Estimate(None, None, None, prompts)
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for k in range(draws):
        rows = rng.integers(prompts, size=prompts)
        columns = rng.integers(seeds, size=seeds)
        drawn = {n: float(np.nanmean(m[np.ix_(rows, columns)])) for n, m in zip(names, matrices, strict=True)}
        values[k] = estimand(drawn)
    finite = values[np.isfinite(values)]
    if len(finite) < 0.95 * draws:
        return Estimate(point, None, None, prompts)
    tail = (1 - level) / 2
    return Estimate(point, float(np.quantile(finite, tail)), float(np.quantile(finite, 1 - tail)), prompts)


def detectable_difference(cells_a: Cells, cells_b: Cells, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Smallest difference of two paired means that would be found with the given power, from the observed spread.

    Prompts are the unit; with several seeds each prompt's mean over them is used.
    """
    difference = np.nanmean(cells_a, axis=1) - np.nanmean(cells_b, axis=1)
    difference = difference[np.isfinite(difference)]
    if len(difference) < 2:
        return None
    spread = max(float(difference.std(ddof=1)), math.sqrt(0.25 / len(difference)))
    z = float(sps.norm.ppf(1 - alpha / 2) + sps.norm.ppf(power))
    return z * spread / math.sqrt(len(difference))
