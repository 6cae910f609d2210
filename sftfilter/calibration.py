"""How far a scorer can be trusted, from rows somebody labelled, and rates put right for its mistakes.

Pure functions over arrays. A missing score (NaN) is never taken for a low one: it is left out and counted.
Rows are taken as independent; with many rows of one prompt the intervals are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from scipy import stats as sps

from sftfilter.errors import DataError
from sftfilter.ranking import Order
from sftfilter.stats import Cells, Estimate, effective_size, rate, wilson


@dataclass(frozen=True)
class Confusion:
    """Labelled rows by what the scorer made of them at a threshold; `missing` had no score."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    missing: int

    @property
    def rows(self) -> int:
        """All labelled rows."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Calibration:
    """A scorer against labels.

    Attributes:
        sensitivity: share of the rows with the trait that are flagged, Wilson interval (Wilson 1927).
        specificity: share of the rows without it that are not, likewise.
        auroc: probability that a row with the trait scores above one without, ties half; needs no threshold.
        auprc: average precision; compare it with `positives`, which a random order reaches.
        positives: share of labelled rows that have the trait.
    """

    threshold: float
    confusion: Confusion
    sensitivity: Estimate
    specificity: Estimate
    auroc: Estimate
    auprc: Estimate
    positives: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Prevalence:
    """A rate as the scorer gives it and as it probably is. `note` says why there is none, or what to doubt."""

    observed: Estimate
    corrected: Estimate
    note: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def calibrate(scores: ArrayLike, labels: ArrayLike, threshold: float, level: float = 0.95) -> Calibration:
    """Measure a scorer that flags rows with a score of `threshold` or more.

    Args:
        scores: float [N]; NaN where there is none.
        labels: [N] of 0 and 1 (or booleans); 1 has the trait.

    Raises:
        DataError: lengths differ, a label is neither 0 nor 1, or one of the two kinds has no scored row.
    """
    kept, truth, missing = _scored(scores, labels)
    flagged = kept >= threshold
    confusion = Confusion(
        true_positive=int((flagged & truth).sum()),
        false_positive=int((flagged & ~truth).sum()),
        true_negative=int((~flagged & ~truth).sum()),
        false_negative=int((~flagged & truth).sum()),
        missing=missing,
    )
    return Calibration(
        threshold=threshold,
        confusion=confusion,
        sensitivity=share(confusion.true_positive, int(truth.sum()), level),
        specificity=share(confusion.true_negative, int((~truth).sum()), level),
        auroc=_auroc(kept, truth, level),
        auprc=_auprc(kept, truth, level),
        positives=float(truth.mean()),
    )


def auroc(scores: ArrayLike, labels: ArrayLike, level: float = 0.95) -> Estimate:
    """Area under the ROC curve; see `calibrate` for the arguments and `_auroc` for the interval."""
    kept, truth, _ = _scored(scores, labels)
    return _auroc(kept, truth, level)


def auprc(scores: ArrayLike, labels: ArrayLike, level: float = 0.95) -> Estimate:
    """Average precision; see `calibrate` for the arguments and `_auprc` for the interval."""
    kept, truth, _ = _scored(scores, labels)
    return _auprc(kept, truth, level)


def precision_at(scores: ArrayLike, labels: ArrayLike, count: int, level: float = 0.95) -> Estimate:
    """Share of rows with the trait among the `count` highest scores.

    Rows that tie at the border count by the share of them that fits, which is what a random choice among them expects.
    """
    kept, truth, _ = _scored(scores, labels)
    if not 0 < count <= len(kept):
        raise DataError(f"precision among the first {count} rows: only {len(kept)} have a score")
    border = np.sort(kept)[-count]
    above, tied = kept > border, kept == border
    found = truth[above].sum() + (count - above.sum()) * truth[tied].mean()
    return share(float(found), count, level)


def share(count: float, n: float, level: float = 0.95) -> Estimate:
    """A proportion with its Wilson interval; all None for n = 0."""
    if n == 0:
        return Estimate(None, None, None, 0)
    low, high = wilson(count / n, n, level)
    return Estimate(count / n, low, high, round(n))


def corrected_prevalence(
    flagged: float, rows: float, sensitivity: Estimate, specificity: Estimate, level: float = 0.95
) -> Prevalence:
    """The rate of the trait behind a rate of flags: (flags + specificity - 1) / (sensitivity + specificity - 1).

    The estimate is Rogan and Gladen's (American Journal of Epidemiology 107, 1978), clipped to [0, 1]. The interval is
    Lang and Reiczigel's (Preventive Veterinary Medicine 113, 2014), which counts the doubt in all three rates.

    Args:
        flagged: rows with a score of the threshold or more, among `rows` that have a score and were not used to calibrate.
        sensitivity, specificity: from `calibrate`, with their `n`.
    """
    observed = share(flagged, rows, level)
    if observed.estimate is None or sensitivity.estimate is None or specificity.estimate is None:
        return Prevalence(observed, Estimate(None, None, None, round(rows)), "no rows, or no calibration")
    se, sp = sensitivity.estimate, specificity.estimate
    if se + sp <= 1:
        note = (
            f"sensitivity {se:.2f} + specificity {sp:.2f} <= 1: the scorer tells nothing of the trait, no rate follows"
        )
        return Prevalence(observed, Estimate(None, None, None, round(rows)), note)
    point = (observed.estimate + sp - 1) / (se + sp - 1)
    low, high = _lang_reiczigel(observed.estimate, rows, se, sensitivity.n, sp, specificity.n, level)
    note = None
    if (sensitivity.low or 0) + (specificity.low or 0) <= 1:
        note = (
            "the scorer may tell nothing of the trait (the lower limits of sensitivity and specificity add up to <= 1)"
        )
    elif not 0 <= point <= 1:
        note = f"the estimate, {point:.3f}, lay outside [0, 1]: the calibration may not hold for these rows"
    return Prevalence(observed, Estimate(min(1.0, max(0.0, point)), low, high, round(rows)), note)


def corrected_rate(cells: Cells, sensitivity: Estimate, specificity: Estimate, level: float = 0.95) -> Prevalence:
    """The rate of the trait behind a judge's grades of one arm, `corrected_prevalence` of the effective sample size.

    Args:
        cells: grades 0 or 1, [prompt, seed]; NaN where there is none.
    """
    found = rate(cells, level)
    if found.estimate is None:
        return corrected_prevalence(0, 0, sensitivity, specificity, level)
    size = effective_size(cells, level)
    made = corrected_prevalence(found.estimate * size, size, sensitivity, specificity, level)
    return Prevalence(found, replace(made.corrected, n=found.n), made.note)


def _lang_reiczigel(
    p: float, n: float, se: float, n_se: int, sp: float, n_sp: int, level: float
) -> tuple[float, float]:
    """Limits of the corrected prevalence, in [0, 1]. Pseudo-counts: z^2 to the rows, two to each calibration."""
    z = float(sps.norm.ppf(0.5 + level / 2))
    p = (n * p + z * z / 2) / (n + z * z)
    se, sp = (n_se * se + 1) / (n_se + 2), (n_sp * sp + 1) / (n_sp + 2)
    if se + sp <= 1:
        return 0.0, 1.0
    var_p, var_se, var_sp = p * (1 - p) / (n + z * z), se * (1 - se) / (n_se + 2), sp * (1 - sp) / (n_sp + 2)
    youden = se + sp - 1
    centre = (p + sp - 1) / youden
    shift = 2 * z * z * (centre * var_se - (1 - centre) * var_sp)
    half = z * math.sqrt(var_p + centre**2 * var_se + (1 - centre) ** 2 * var_sp) / youden
    return max(0.0, min(1.0, centre + shift - half)), min(1.0, max(0.0, centre + shift + half))


def _auroc(scores: NDArray[np.float64], truth: NDArray[np.bool_], level: float) -> Estimate:
    """With the score-type interval of Newcombe (Statistics in Medicine 25, 2006, method 5)."""
    m, n = int(truth.sum()), int((~truth).sum())
    area = float(Order.of(scores, truth).sums().auroc()[0])
    z = float(sps.norm.ppf(0.5 + level / 2))
    more = (m + n) / 2 - 1

    def beyond(theta: float) -> float:
        spread = 1 + more * (1 - theta) / (2 - theta) + more * theta / (1 + theta)
        return (theta - area) ** 2 - z * z * theta * (1 - theta) * spread / (m * n)

    low = float(optimize.brentq(beyond, 0.0, min(area, 1 - 1e-9))) if area > 0 else 0.0  # pyright: ignore[reportArgumentType]
    high = float(optimize.brentq(beyond, max(area, 1e-9), 1.0)) if area < 1 else 1.0  # pyright: ignore[reportArgumentType]
    return Estimate(area, low, high, m + n)


def _auprc(scores: NDArray[np.float64], truth: NDArray[np.bool_], level: float) -> Estimate:
    """The interval is the binomial one over the positives (Boyd, Eng and Page, ECML PKDD 2013) in Wilson's form."""
    value = float(Order.of(scores, truth).sums().average_precision()[0])
    low, high = wilson(value, int(truth.sum()), level)
    return Estimate(value, low, high, len(truth))


def _scored(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Scores, labels as booleans, and how many rows had no score."""
    values, marks = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if values.shape != marks.shape or values.ndim != 1:
        raise DataError(f"calibration needs a label for each score: {values.shape} scores, {marks.shape} labels")
    wrong = np.flatnonzero(~np.isin(marks, (0.0, 1.0)))
    if len(wrong):
        raise DataError(f"labels must be 0 or 1: row {int(wrong[0])} has {marks[wrong[0]]:g} ({len(wrong)} such rows)")
    have = ~np.isnan(values)
    truth = marks[have] == 1
    if truth.all() or not truth.any():
        kinds: Sequence[str] = [f"{int(truth.sum())} with the trait", f"{int((~truth).sum())} without"]
        raise DataError(f"calibration needs scored rows of both kinds; there are {' and '.join(kinds)}")
    return values[have], truth, int((~have).sum())
