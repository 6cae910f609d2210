"""Differences between two students on the same prompts, and what many such comparisons are worth together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats as sps

from sftfilter.errors import DataError
from sftfilter.stats.crossed import Estimand, components, crossed_bootstrap, linearised, on_common_seeds, unseen
from sftfilter.stats.rates import Cells, Estimate


@dataclass(frozen=True)
class Difference:
    """First minus second, with its 95 % interval and the p-value of no difference; None where nothing can be said."""

    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    prompts: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def paired_difference(first: Cells, second: Cells, level: float = 0.95) -> Difference:
    """Mean difference over the prompts (and seeds) that both graded, with Student's interval.

    Pairing takes the prompts' own difficulty out. See `components` for the variance over prompts and seeds, and
    `crossed.unseen` for what is added where a student shows the trait always or never; where nothing varies at all, p is that
    of the sign test over prompts.

    Args:
        first, second: [prompt, seed] over the same prompts, in the same order.

    Raises:
        DataError: the shapes differ.
    """
    if first.shape != second.shape:
        raise DataError(f"students differ in prompts or seeds: {first.shape} against {second.shape} grades")
    if first.shape[1]:
        first, second = on_common_seeds({"first": first, "second": second}).values()
    both = first - second
    both = both[~np.isnan(both).all(axis=1)]
    prompts = len(both)
    if prompts == 0:
        return Difference(None, None, None, None, 0)
    centre = float(np.nanmean(both))
    if prompts == 1:
        return Difference(centre, None, None, None, 1)
    found = components(both)
    half = found.half_width(level)
    down, up = _unseen_in(first, second, level)
    low, high = centre - math.hypot(half, down), centre + math.hypot(half, up)
    if found.standard_error == 0:
        return Difference(centre, low, high, 1.0 if centre == 0 else 2.0 ** (1 - prompts), prompts)
    p = float(2 * sps.t.sf(abs(centre) / found.standard_error, found.freedom))
    return Difference(centre, low, high, p, prompts)


def _unseen_in(first: Cells, second: Cells, level: float) -> tuple[float, float]:
    """Of a difference, over the prompts and seeds that both graded."""
    both = np.isnan(first) | np.isnan(second)
    arms = {"first": np.where(both, np.nan, first), "second": np.where(both, np.nan, second)}
    means = {name: float(np.nanmean(cells)) for name, cells in arms.items()}
    return unseen(arms, means, lambda y: y["first"] - y["second"], level)


def estimand_difference(first: Mapping[str, Cells], second: Mapping[str, Cells], estimand: Estimand) -> Difference:
    """An estimand of one study minus the same of another, on the same prompts and training seeds.

    The interval is that of `crossed_bootstrap` over the arms of both, which stay paired in every draw; the p-value is
    Student's on the linearised difference, whose width the interval has.

    Args:
        first, second: role -> matrix [prompt, seed], all of one shape and in one order.
    """
    arms = {f"a {role}": cells for role, cells in first.items()} | {
        f"b {role}": cells for role, cells in second.items()
    }

    def between(y: Mapping[str, Any]) -> Any:
        return estimand({r: y[f"a {r}"] for r in first}) - estimand({r: y[f"b {r}"] for r in second})

    found = crossed_bootstrap(arms, between)
    return Difference(found.estimate, found.low, found.high, estimand_p(found, arms, between), found.n)


def estimand_p(found: Estimate, arms: Mapping[str, Cells], estimand: Estimand) -> float | None:
    """The p-value of an estimand that is zero: Student's on its linearised form; None where it has no interval.

    Args:
        found: by `crossed_bootstrap` of the same arms.
        arms: role -> matrix [prompt, seed], all of one shape and in one order.
    """
    if found.estimate is None or found.low is None or found.n < 2:
        return None
    arms = on_common_seeds(arms)
    means = {name: float(np.nanmean(cells)) for name, cells in arms.items()}
    known = components(linearised(arms, means, estimand))
    if known.standard_error == 0:
        return _p_of_interval(found)
    return float(2 * sps.t.sf(abs(found.estimate) / known.standard_error, known.freedom))


def _p_of_interval(found: Estimate, level: float = 0.95) -> float:
    """Where nothing varies in any arm: the normal's p-value for the distance of the limit on the side of zero."""
    assert found.estimate is not None
    assert found.low is not None
    assert found.high is not None
    if found.estimate == 0:
        return 1.0
    width = found.estimate - found.low if found.estimate > 0 else found.high - found.estimate
    z = float(sps.norm.ppf(0.5 + level / 2))
    return float(2 * sps.norm.sf(z * abs(found.estimate) / width)) if width > 0 else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values for a few pre-registered contrasts (Holm 1979): the chance of any false claim stays below the level.

    `statsmodels` has it as well, and takes 90 ms a call.
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values for a sweep (1995): of what is claimed, the expected share of false claims stays below the level."""
    return sps.false_discovery_control(p_values).tolist() if len(p_values) else []
