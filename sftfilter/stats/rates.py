"""Single rates and means, each with an interval that allows for prompts that differ."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats as sps
from statsmodels.stats.proportion import proportion_confint

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

    It covers the choice of prompts for the seeds at hand; contrasts (`crossed_bootstrap`) cover seeds as well.
    """
    kept = _graded(cells)
    graded = int((~np.isnan(kept)).sum())
    if graded == 0:
        return Estimate(None, None, None, 0)
    p = float(np.nanmean(kept))
    return Estimate(p, *wilson(p, effective_size(kept, level), level), graded)


def effective_size(cells: Cells, level: float = 0.95) -> float:
    """How many independent rows would tell as much of the mean as these clustered ones.

    p(1-p) over the prompt-clustered variance of the mean (Korn and Graubard 1998; Dean and Pagano 2015 find Wilson the
    best of the intervals built on it), at most the number of graded cells and, where p is 0 or 1, the number of prompts;
    then lowered as Student's t is wider than the normal for so few prompts.
    """
    kept = _graded(cells)
    graded = int((~np.isnan(kept)).sum())
    prompts = kept.shape[0]
    p = float(np.nanmean(kept)) if graded else 0.0
    if not 0 < p < 1 or prompts < 2:
        return float(prompts)
    residual = np.nansum(kept - p, axis=1)
    variance = float((residual**2).sum()) / graded**2 * prompts / (prompts - 1)
    effective = min(p * (1 - p) / variance, graded) if variance > 0 else float(graded)
    return effective * (float(sps.norm.ppf(0.5 + level / 2)) / float(sps.t.ppf(0.5 + level / 2, prompts - 1))) ** 2


def wilson(p: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) for a proportion seen in n rows; n may be an effective size."""
    limits: Any = proportion_confint(p * n, n, alpha=1 - level, method="wilson")
    # At 0 and 1 rounding puts the limit a hair on the wrong side of the rate itself.
    return min(p, max(0.0, float(limits[0]))), max(p, min(1.0, float(limits[1])))


def mean(cells: Cells, level: float = 0.95) -> Estimate:
    """Mean of any measure over prompts (seeds averaged first), with Student's t interval over prompts."""
    kept = _graded(cells)
    values = np.nanmean(kept, axis=1) if kept.size else np.array([])
    if len(values) == 0:
        return Estimate(None, None, None, 0)
    centre = float(values.mean())
    if len(values) == 1:
        return Estimate(centre, None, None, 1)
    half = float(sps.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Estimate(centre, centre - half, centre + half, len(values))


def _graded(cells: Cells) -> Cells:
    """Without the prompts of which nothing could be graded."""
    return cells[~np.isnan(cells).all(axis=1)]
