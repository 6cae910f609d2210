"""Intervals cover what they claim to, on clustered data where the naive ones do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sftfilter.stats import crossed_bootstrap, detectable_difference, mean, rate


def _clustered(rng: np.random.Generator, prompts: int, seeds: int) -> np.ndarray:
    """Prompts differ widely in how often they show the trait; the mean rate is 0.5."""
    inclination = rng.beta(0.3, 0.3, size=(prompts, 1))
    return (rng.random((prompts, seeds)) < inclination).astype(float)


def test_wilson_covers_clustered_rates_where_the_naive_interval_does_not() -> None:
    rng = np.random.default_rng(0)
    covered = naive = 0
    runs = 1500
    for _ in range(runs):
        cells = _clustered(rng, 60, 5)
        found = rate(cells)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.5 <= found.high
        half = 1.96 * math.sqrt(cells.mean() * (1 - cells.mean()) / cells.size)
        naive += abs(cells.mean() - 0.5) <= half
    assert 0.93 <= covered / runs <= 0.975
    assert naive / runs < 0.75


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_or_nothing_still_has_width_from_the_prompts(value: float) -> None:
    found = rate(np.full((70, 3), value))
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(3.84 / (70 + 3.84), rel=0.01)  # Wilson at 0 of 70, not of 210


def test_missing_grades_are_left_out_not_zero() -> None:
    cells = np.array([[1.0], [np.nan], [1.0], [0.0]])
    found = rate(cells)
    assert found.estimate == pytest.approx(2 / 3) and found.n == 3
    assert rate(np.full((4, 1), np.nan)).estimate is None
    assert mean(np.array([[1.0], [np.nan]])).n == 1


def test_crossed_bootstrap_covers_a_contrast_of_paired_arms() -> None:
    rng = np.random.default_rng(1)
    runs, covered = 120, 0
    for _ in range(runs):
        effect = rng.normal(0, 0.5, size=(1, 8))  # of the training seed, shared by the prompts
        base = rng.normal(0, 1, size=(60, 1))
        arms = {
            "a": base + effect + rng.normal(1.0, 0.3, size=(60, 8)),
            "b": base + rng.normal(0.0, 0.3, size=(60, 8)),
        }
        found = crossed_bootstrap(arms, lambda y: y["a"] - y["b"], draws=400)
        assert found.low is not None and found.high is not None
        covered += found.low <= 1.0 <= found.high
    assert covered / runs > 0.85  # eight seeds are few: the bootstrap is known to be a little narrow there


def test_an_undefined_ratio_is_none_not_a_number() -> None:
    arms = {"a": np.zeros((5, 1)), "b": np.zeros((5, 1))}
    found = crossed_bootstrap(arms, lambda y: math.nan if y["a"] == y["b"] else 1.0)
    assert (found.estimate, found.low, found.high) == (None, None, None)


def test_detectable_difference_shrinks_with_prompts() -> None:
    rng = np.random.default_rng(2)
    small, large = (detectable_difference(_clustered(rng, n, 1), _clustered(rng, n, 1)) for n in (40, 160))
    assert small is not None and large is not None
    assert large == pytest.approx(small / 2, rel=0.35)
