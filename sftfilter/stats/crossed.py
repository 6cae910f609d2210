"""Estimands of several arms, over prompts crossed with training seeds: an interval that holds with three seeds.

Every arm answers the same prompts and is trained with the same seeds, so a grade belongs to a prompt and to a seed, and
both are a sample of what might have been. A bootstrap that resamples them keeps the shape of a ratio's distribution, but
with few seeds not its width: three seeds can be redrawn in ten ways only, and the spread of a mean of three is known with
two degrees of freedom. So the bootstrap gives the shape, and the width comes from the analysis of variance.

Measured coverage of 95 % intervals for 60 prompts, 3 seeds, binary grades (600 simulations a figure, 1,500 of this; naive /
crossed bootstrap alone / this): no seed effect 0.86 / 0.98 / 0.97; seeds that differ by 5 points 0.85 / 0.99 / 0.96, by 9
points 0.76 / 0.96 / 0.96, by 17 points 0.56 / 0.87 / 0.94.

An arm that shows the trait in none of its answers, or in all, varies in no draw, yet its rate is not known to be 0 or 1. What
n prompts cannot tell, at most 3.84 / (n + 3.84) (Wilson 1927; the rule of three has 3 / n), is added by squares: each limit
is moved by how far the estimand moves when such an arm alone goes to its own limit (square-and-add, Newcombe 1998, method 10;
for any function of several means, MOVER, Zou and Donner 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as sps

from sftfilter.stats.rates import Cells, Estimate, wilson

Estimand = Callable[[Mapping[str, Any]], Any]
"""From arm means to a number, element by element: means are floats or arrays [draws]. NaN where it is undefined."""

_STEP = 1e-5
_TINY = 1e-12


@dataclass(frozen=True)
class Component:
    """Standard error of a mean over prompts x seeds, and with how many degrees of freedom it is known."""

    standard_error: float
    freedom: float

    def half_width(self, level: float = 0.95) -> float:
        """Of Student's interval."""
        return float(sps.t.ppf(0.5 + level / 2, self.freedom)) * self.standard_error


def components(values: Cells) -> Component:
    """Two-way random effects without replication, by the method of moments (Cornfield and Tukey 1956).

    The variance of the mean is (MS_prompt + MS_seed - MS_rest) / (prompts x seeds), with Satterthwaite's (1946) degrees of
    freedom, at least those of the smallest mean square. Where prompts and seeds happen to differ so little that it is not
    above 0, the variance is MS_rest / (prompts x seeds), below which the true one cannot lie. With one seed it is the variance
    over prompts, and nothing is said of seeds.

    Args:
        values: [prompt, seed], at least two prompts; NaN counts as the mean.
    """
    prompts, seeds = values.shape
    if seeds == 1:
        return Component(float(_spread(values)[:, 0].std(ddof=1)) / math.sqrt(prompts), prompts - 1)
    return combined(mean_squares(values), prompts, seeds)


def mean_squares(values: Cells) -> np.ndarray:
    """Mean squares of prompts, seeds and the rest, of [prompt, seed] with at least two of each; NaN counts as the mean."""
    prompts, seeds = values.shape
    spread = _spread(values)
    rows, columns = spread.mean(axis=1), spread.mean(axis=0)
    rest = spread - rows[:, None] - columns[None, :]
    squares = np.array([seeds * (rows**2).sum(), prompts * (columns**2).sum(), (rest**2).sum()])
    return squares / _freedoms(prompts, seeds)


def combined(squares: np.ndarray, prompts: int, seeds: int) -> Component:
    """What mean squares over at least two prompts and seeds say of the mean; see `components`."""
    freedom = _freedoms(prompts, seeds)
    shares = squares / (prompts * seeds)
    variance = max(float(shares[0] + shares[1] - shares[2]), 0.0)
    uncertain = float((shares**2 / freedom).sum())
    if variance < _TINY or uncertain < _TINY**2:
        return Component(math.sqrt(max(variance, shares[2])), prompts - 1)
    least = (
        min(seeds, prompts) - 1
    )  # no mean square is known with fewer, though the formula goes below where one is taken off
    return Component(math.sqrt(variance), float(np.clip(variance**2 / uncertain, least, prompts - 1)))


def _freedoms(prompts: int, seeds: int) -> np.ndarray:
    return np.array([prompts - 1, seeds - 1, (prompts - 1) * (seeds - 1)])


def _spread(values: Cells) -> np.ndarray:
    return np.where(np.isnan(values), 0.0, values - np.nanmean(values))


def crossed_bootstrap(
    arms: Mapping[str, Cells], estimand: Estimand, *, draws: int = 4000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """An estimand of arm means with an interval over prompts and training seeds.

    Prompts and seeds are resampled with replacement and independently (the pigeonhole bootstrap, Owen 2007); the
    percentiles' distances from the estimate are then stretched to the width of Student's interval on the linearised
    estimand (see the module's text). With a single seed the interval covers prompts only, which callers must say.

    Args:
        arms: matrices [prompt, seed] over the same prompts and seeds, so that arms stay paired in every draw. What some
            arm has no grade of is left out of all: three columns of which one is empty are two training runs.

    Returns:
        low and high are None when more than 5 % of the draws are undefined; all None without a common seed.
    """
    arms = on_common_seeds(arms)
    prompts, seeds = next(iter(arms.values())).shape
    if not seeds:
        return Estimate(None, None, None, prompts)
    means = {name: float(np.nanmean(matrix)) for name, matrix in arms.items()}
    point = float(estimand(means))
    if not math.isfinite(point):
        return Estimate(None, None, None, prompts)
    values = np.broadcast_to(np.asarray(estimand(_redrawn(arms, draws, seed)), dtype=float), (draws,))
    finite = values[np.isfinite(values)]
    if len(finite) < 0.95 * draws:
        return Estimate(point, None, None, prompts)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2]) - point
    if prompts > 1 and high - low > _TINY:
        wanted = 2 * components(linearised(arms, means, estimand)).half_width(level)
        low, high = low * wanted / (high - low), high * wanted / (high - low)
    down, up = unseen(arms, means, estimand, level)
    return Estimate(point, point - math.hypot(float(low), down), point + math.hypot(float(high), up), prompts)


def on_common_seeds(arms: Mapping[str, Cells]) -> dict[str, Cells]:
    """The arms on what all of them have grades of: seeds (columns) without any such cell left out, other cells NaN.

    An answer that one arm's grader could not read is then left out of all: what is hard to grade may be what shows the trait.

    Raises:
        ValueError: the arms differ in prompts or seeds.
    """
    shapes = {name: matrix.shape for name, matrix in arms.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"arms differ in prompts or seeds: {shapes}")
    graded = np.logical_and.reduce([~np.isnan(matrix) for matrix in arms.values()])
    if graded.all():
        return dict(arms)
    seeds = graded.any(axis=0)
    return {name: np.where(graded, matrix, np.nan)[:, seeds] for name, matrix in arms.items()}


def unseen(
    arms: Mapping[str, Cells], means: Mapping[str, float], estimand: Estimand, level: float = 0.95
) -> tuple[float, float]:
    """How far below and above an estimand may lie for what arms at exactly 0 or 1 cannot show; 0 without such an arm.

    Prompts are the unit, however many seeds answered them; see the module's text.
    """
    point = float(estimand(means))
    moves = []
    for name, matrix in arms.items():
        if means[name] in (0.0, 1.0):
            prompts = int((~np.isnan(matrix)).any(axis=1).sum())
            limit = wilson(means[name], prompts, level)[means[name] == 0.0]
            moves.append(float(estimand({**means, name: limit})) - point)
    known = [move for move in moves if math.isfinite(move)]
    return math.hypot(*(m for m in known if m < 0)), math.hypot(*(m for m in known if m > 0))


def _redrawn(arms: Mapping[str, Cells], draws: int, seed: int) -> dict[str, np.ndarray]:
    """Every arm's mean in every draw: [draws] each. A prompt or seed drawn k times weighs k."""
    prompts, seeds = next(iter(arms.values())).shape
    rng = np.random.default_rng(seed)
    rows = rng.multinomial(prompts, np.full(prompts, 1 / prompts), draws).astype(float)
    columns = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws).astype(float)
    means: dict[str, np.ndarray] = {}
    for name, matrix in arms.items():
        graded = ~np.isnan(matrix)
        total = ((rows @ np.where(graded, matrix, 0.0)) * columns).sum(axis=1)
        count = ((rows @ graded.astype(float)) * columns).sum(axis=1)
        means[name] = np.divide(total, count, out=np.full(draws, np.nan), where=count > 0)
    return means


def linearised(arms: Mapping[str, Cells], means: Mapping[str, float], estimand: Estimand) -> Cells:
    """What each prompt and seed adds to the estimand, to first order (the delta method): [prompt, seed], mean 0."""
    parts = np.zeros_like(next(iter(arms.values())), dtype=float)
    slope = slopes(means, estimand)
    for name, matrix in arms.items():
        graded = ~np.isnan(matrix)
        weight = matrix.size / max(int(graded.sum()), 1)
        parts += slope[name] * weight * np.where(graded, matrix - means[name], 0.0)
    return parts


def slopes(means: Mapping[str, float], estimand: Estimand) -> dict[str, float]:
    """How fast the estimand moves with each arm's mean."""
    found: dict[str, float] = {}
    for name, mean in means.items():
        up, down = (float(estimand({**means, name: mean + step})) for step in (_STEP, -_STEP))
        found[name] = (up - down) / (2 * _STEP)
    return found
