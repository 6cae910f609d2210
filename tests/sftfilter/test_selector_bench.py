"""A scorer's worth on mixtures whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from sftfilter.mixtures import Mixture
from sftfilter.selector_bench import ScoredPairs, measure, resampled_prompts

N, PLANTED, DRAWS = 300, 45, 5
WEIGHTS = resampled_prompts(N, 300, seed=1)


def _mixtures() -> list[Mixture]:
    rng = np.random.default_rng(0)
    made = []
    for draw in range(DRAWS):
        planted = np.zeros(N, dtype=bool)
        planted[rng.choice(N, PLANTED, replace=False)] = True
        made.append(Mixture("overt", PLANTED / N, draw, planted))
    return made


def _scores(shift: float, seed: int = 2) -> ScoredPairs:
    rng = np.random.default_rng(seed)
    return ScoredPairs(rng.normal(size=N), rng.normal(shift, size=N))


def test_perfect_reversed_and_random() -> None:
    perfect = measure(_scores(50), _mixtures(), WEIGHTS, compared=9)
    for estimate in (perfect.auprc, perfect.auroc, perfect.precision, perfect.recall_at_twice):
        assert estimate.estimate == estimate.low == estimate.high == 1
    assert perfect.better_than_chance and not perfect.reversed

    wrong = measure(_scores(-50), _mixtures(), WEIGHTS, compared=9)
    assert (wrong.auroc.estimate, wrong.precision.estimate) == (0, 0)
    assert wrong.reversed and not wrong.better_than_chance

    constant = measure(ScoredPairs(np.zeros(N), np.zeros(N)), _mixtures(), WEIGHTS, compared=9)
    assert constant.auroc.estimate == 0.5
    assert constant.auprc.estimate == constant.precision.estimate == pytest.approx(PLANTED / N)
    assert constant.recall_at_twice.estimate == pytest.approx(2 * PLANTED / N)
    assert not constant.better_than_chance and not constant.reversed


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    from scipy.stats import norm

    truth = norm.cdf(1 / np.sqrt(2))  # AUROC of two normals one apart
    mixtures = _mixtures()
    found = [measure(_scores(1.0, seed), mixtures, WEIGHTS, compared=1).auroc for seed in range(40)]
    assert all(f.low is not None and f.high is not None for f in found)
    held = sum((f.low or 0) <= truth <= (f.high or 0) for f in found)
    assert held >= 33  # 38 expected
    assert np.mean([(f.high or 0) - (f.low or 0) for f in found]) < 0.15


def test_random_scorers_are_not_called_better() -> None:
    mixtures = _mixtures()
    worths = [measure(_scores(0.0, seed), mixtures, WEIGHTS, compared=9) for seed in range(20)]
    assert sum(w.better_than_chance or w.reversed for w in worths) <= 1


def test_rows_without_a_score_go_last() -> None:
    known = _scores(50)
    missing = ScoredPairs(known.clean, np.where(np.arange(N) % 2, known.trait, np.nan))
    worth = measure(missing, _mixtures(), WEIGHTS, compared=1)
    planted = np.concatenate([np.flatnonzero(m.planted) for m in _mixtures()])
    assert worth.precision.estimate == pytest.approx((planted % 2).mean(), abs=0.01)


def test_measures_of_one_planted_row_have_an_interval_or_none() -> None:
    planted = np.zeros(N, dtype=bool)
    planted[7] = True
    worth = measure(_scores(50), [Mixture("overt", 1 / N, 0, planted)], WEIGHTS, compared=1)
    assert worth.auprc.estimate == 1
    assert worth.auprc.low is None, "a third of the replicates draw no planted row"
    assert not worth.better_than_chance
