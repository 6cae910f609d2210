"""Calibration against known numbers, and rates put right in a simulated world whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sftfilter.calibration import auprc, auroc, calibrate, corrected_prevalence, precision_at, share
from sftfilter.errors import DataError
from sftfilter.stats import Estimate


def test_confusion_leaves_missing_scores_out_and_counts_them() -> None:
    scores = [9, 8, 2, 1, 7, 1, 0, math.nan, math.nan]
    labels = [1, 1, 1, 1, 0, 0, 0, 1, 0]
    made = calibrate(scores, labels, threshold=7)
    kept = made.confusion
    assert (kept.true_positive, kept.false_negative, kept.false_positive, kept.true_negative) == (2, 2, 1, 2)
    assert (kept.missing, kept.rows) == (2, 9)
    assert made.sensitivity.estimate == 0.5 and made.sensitivity.n == 4
    assert made.specificity.estimate == pytest.approx(2 / 3) and made.specificity.n == 3
    assert made.positives == pytest.approx(4 / 7)


def test_wilson_interval_of_the_textbook() -> None:
    found = share(81, 263)  # Newcombe 1998, table I
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    none = share(0, 20)
    assert none.low == 0 and none.high == pytest.approx(0.1611, abs=5e-5)
    assert share(0, 0) == Estimate(None, None, None, 0)


def test_areas_with_ties() -> None:
    scores, labels = [0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]
    assert auroc(scores, labels).estimate == 0.75
    assert auprc(scores, labels).estimate == pytest.approx(5 / 6)
    assert auroc([1, 1, 1, 1], labels).estimate == 0.5
    assert auprc([1, 1, 1, 1], labels).estimate == 0.5  # all tie: the share of positives
    perfect = auroc([1, 2, 3, 4], labels)
    assert perfect.estimate == perfect.high == 1 and 0 < (perfect.low or 0) < 1
    assert precision_at(scores, labels, 1).estimate == 1
    assert precision_at(scores, labels, 3).estimate == pytest.approx(2 / 3)
    assert precision_at([1, 1, 1, 1], labels, 2).estimate == 0.5


def test_areas_equal_their_definitions() -> None:
    rng = np.random.default_rng(3)
    labels = rng.random(120) < 0.3
    scores = np.round(rng.normal(labels * 1.0), 1)
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels] for b in scores[~labels]]
    assert auroc(scores, labels).estimate == pytest.approx(np.mean(pairs))
    area, recall = 0.0, 0.0
    for t in sorted(set(scores), reverse=True):
        flagged = scores >= t
        now = (flagged & labels).sum() / labels.sum()
        area += (now - recall) * (flagged & labels).sum() / flagged.sum()
        recall = now
    assert auprc(scores, labels).estimate == pytest.approx(area)


@pytest.mark.parametrize(
    ("labels", "message"), [([1, 1], "both kinds"), ([0, 2], "row 1 has 2"), ([0, 1, 1], "a label for each score")]
)
def test_unusable_labels_are_named(labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        calibrate([0.1, 0.2], labels, 0.5)


def test_corrected_prevalence_by_hand() -> None:
    made = corrected_prevalence(30, 100, Estimate(0.8, 0.7, 0.9, 100), Estimate(0.9, 0.8, 0.95, 100))
    assert made.observed.estimate == 0.3
    assert made.corrected.estimate == pytest.approx(0.2 / 0.7)
    assert made.note is None
    fewer = corrected_prevalence(2, 100, Estimate(0.8, 0.7, 0.9, 100), Estimate(0.9, 0.8, 0.95, 100))
    assert fewer.corrected.estimate == 0 and "outside" in (fewer.note or "")
    useless = corrected_prevalence(30, 100, Estimate(0.4, 0.3, 0.5, 50), Estimate(0.6, 0.5, 0.7, 50))
    assert useless.corrected.estimate is None and "<= 1" in (useless.note or "")
    doubtful = corrected_prevalence(30, 100, Estimate(0.6, 0.4, 0.8, 10), Estimate(0.7, 0.5, 0.9, 10))
    assert doubtful.corrected.estimate is not None and "may tell nothing" in (doubtful.note or "")


@pytest.mark.parametrize(("rate", "se", "sp"), [(0.3, 0.8, 0.9), (0.05, 0.7, 0.95), (0.6, 0.95, 0.8)])
def test_corrected_intervals_cover_the_truth_and_raw_ones_do_not(rate: float, se: float, sp: float) -> None:
    rng = np.random.default_rng(11)
    covered, raw, n = 0, 0, 600
    for _ in range(n):
        hits, passes = rng.binomial(120, se), rng.binomial(120, sp)
        flagged = rng.binomial(800, rate * se + (1 - rate) * (1 - sp))
        made = corrected_prevalence(int(flagged), 800, share(int(hits), 120), share(int(passes), 120))
        low, high = made.corrected.low, made.corrected.high
        assert low is not None and high is not None
        covered += low <= rate <= high
        raw += (made.observed.low or 0) <= rate <= (made.observed.high or 0)
    assert 0.93 <= covered / n <= 0.995
    assert raw < covered


def test_auroc_interval_covers() -> None:
    rng = np.random.default_rng(5)
    truth = 0.7602  # two normals a standard deviation apart: Phi(1 / sqrt(2))
    covered = 0
    for _ in range(400):
        scores = np.concatenate([rng.normal(1, 1, 30), rng.normal(0, 1, 50)])
        made = auroc(scores, np.arange(80) < 30)
        covered += (made.low or 0) <= truth <= (made.high or 0)
    assert 0.92 <= covered / 400 <= 0.99
