"""Areas and precision under weights: a weight of 2 is the row twice, and ties count by what a random order expects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sftfilter.ranking import Order


def _measures(scores: Sequence[float], truth: Sequence[int], weights: np.ndarray | None = None) -> list[list[float]]:
    sums = Order.of(np.array(scores, float), np.array(truth, bool)).sums(weights)
    return [m.tolist() for m in (sums.auroc(), sums.average_precision(), sums.recall_at(1), sums.recall_at(2))]


def test_known_values() -> None:
    # Positives at places 1 and 4 of 5.
    assert _measures([5, 4, 3, 2, 1], [1, 0, 0, 1, 0]) == [[4 / 6], [(1 + 2 / 4) / 2], [0.5], [1.0]]
    # All tie: chance, whatever is asked.
    assert _measures([1] * 5, [1, 0, 0, 1, 0]) == [[0.5], [0.4], [0.4], [0.8]]
    # Reversed.
    assert _measures([1, 2, 3, 4], [1, 1, 0, 0])[0] == [0.0]


def test_the_border_of_a_tie_is_shared() -> None:
    # Three positives: one alone on top, then four rows that tie, two of them positive; two of the four fit in.
    scores, truth = [9, 5, 5, 5, 5, 1], [1, 1, 1, 0, 0, 0]
    assert _measures(scores, truth)[2] == [pytest.approx((1 + 2 * 2 / 4) / 3)]


def test_a_weight_is_a_repeated_row() -> None:
    rng = np.random.default_rng(0)
    scores, truth = np.round(rng.normal(size=40), 1), rng.random(40) < 0.3
    weights = rng.multinomial(40, [1 / 40] * 40, size=3).astype(float)
    found = _measures(scores.tolist(), truth.tolist(), weights)
    for b in range(3):
        drawn = np.repeat(np.arange(40), weights[b].astype(int))
        again = _measures(scores[drawn].tolist(), truth[drawn].tolist())
        assert [m[b] for m in found] == pytest.approx([m[0] for m in again])


def test_a_weighting_without_positives_gives_nothing() -> None:
    weights = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    for values in _measures([3, 2, 1], [1, 0, 0], weights):
        assert np.isnan(values[0])
        assert values[1] == 1
