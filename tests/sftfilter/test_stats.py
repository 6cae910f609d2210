"""Intervals cover what they claim to, on clustered data where the naive ones do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats as sps
from scipy.special import expit
from statsmodels.stats.multitest import multipletests

from sftfilter.errors import DataError
from sftfilter.estimands import ESTIMANDS
from sftfilter.stats import (
    benjamini_hochberg,
    crossed_bootstrap,
    detectable_difference,
    estimand_difference,
    holm,
    mean,
    paired_difference,
    prompts_needed,
    rate,
    seeds_needed,
    wilson,
)


def _clustered(rng: np.random.Generator, prompts: int, seeds: int) -> np.ndarray:
    """Prompts differ widely in how often they show the trait; the mean rate is 0.5."""
    inclination = rng.beta(0.3, 0.3, size=(prompts, 1))
    return (rng.random((prompts, seeds)) < inclination).astype(float)


def _crossed(rng: np.random.Generator, logit: float, prompt: np.ndarray, seed: np.ndarray, seeds: int) -> np.ndarray:
    """Binary grades whose odds depend on the prompt [P, 1] and the training seed [1, S]."""
    own = rng.normal(0, 0.3, (len(prompt), seeds))
    return (rng.random(own.shape) < expit(logit + prompt + seed + own)).astype(float)


def _naive_covers(values: np.ndarray, truth: float) -> bool:
    return bool(abs(values.mean() - truth) <= 1.96 * values.std(ddof=1) / math.sqrt(values.size))


def test_wilson_covers_clustered_rates_where_the_naive_interval_does_not() -> None:
    rng = np.random.default_rng(0)
    covered = naive = 0
    runs = 1500
    for _ in range(runs):
        cells = _clustered(rng, 60, 5)
        found = rate(cells)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.5 <= found.high
        naive += _naive_covers(cells, 0.5)
    assert 0.93 <= covered / runs <= 0.97
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
    arms = {"a": np.array([[1.0, np.nan], [1.0, 1.0], [0.0, 1.0]]), "b": np.zeros((3, 2))}
    assert crossed_bootstrap(arms, lambda y: y["a"] - y["b"]).estimate == pytest.approx(4 / 5)


def test_what_one_arm_has_no_grade_of_is_left_out_of_all() -> None:
    """Half of the prompts evoke it in either arm; a grader that refuses just these in one makes no difference of it."""
    evoking = np.repeat([[1.0, 1.0], [0.0, 0.0]], 20, axis=0)
    refused = evoking.copy()
    refused[:15] = np.nan
    found = crossed_bootstrap({"a": evoking, "b": refused}, lambda y: y["a"] - y["b"])
    assert (found.estimate, found.low, found.high) == pytest.approx((0, 0, 0))


@pytest.mark.parametrize("spread", [0.0, 0.25, 0.5])
def test_three_seeds_and_sixty_prompts_cover_a_difference(spread: float) -> None:
    """Two students on the same prompts; `spread` of the seeds' effect in logits (0.5 is about 9 points)."""
    rng = np.random.default_rng(int(100 * spread))
    far = np.random.default_rng(9).normal(0, 1, (200_000, 1))
    truth = float(
        (expit(0.8 + far * math.hypot(1.5, spread, 0.3)) - expit(-0.8 + far * math.hypot(1.5, spread, 0.3))).mean()
    )
    runs, boot, pairs, naive = 700, 0, 0, 0
    for _ in range(runs):
        prompt, seed = rng.normal(0, 1.5, (60, 1)), rng.normal(0, spread, (2, 1, 3))
        arms = {"a": _crossed(rng, 0.8, prompt, seed[0], 3), "b": _crossed(rng, -0.8, prompt, seed[1], 3)}
        found = crossed_bootstrap(arms, lambda y: y["a"] - y["b"], draws=400)
        assert found.low is not None and found.high is not None
        boot += found.low <= truth <= found.high
        other = paired_difference(arms["a"], arms["b"])
        assert other.low is not None and other.high is not None
        pairs += other.low <= truth <= other.high
        naive += _naive_covers(arms["a"] - arms["b"], truth)
    assert 0.93 <= boot / runs <= 0.97 and 0.93 <= pairs / runs <= 0.97, (boot / runs, pairs / runs)
    if spread == 0.5:
        assert naive / runs < 0.85


def test_three_seeds_and_sixty_prompts_cover_a_share_of_the_gap() -> None:
    """R = (drop - alternate) / (original - alternate), whose interval is not symmetric."""
    rng = np.random.default_rng(4)
    logits = {"original": 1.5, "drop": 0.0, "alternate": -3.0}
    far = np.random.default_rng(9).normal(0, math.hypot(1.2, 0.3, 0.3), (200_000, 1))
    true = {name: float(expit(at + far).mean()) for name, at in logits.items()}

    def share(y: Any) -> Any:
        return (y["drop"] - y["alternate"]) / (y["original"] - y["alternate"])

    runs, covered = 700, 0
    for _ in range(runs):
        prompt = rng.normal(0, 1.2, (60, 1))
        arms = {n: _crossed(rng, at, prompt, rng.normal(0, 0.3, (1, 3)), 3) for n, at in logits.items()}
        found = crossed_bootstrap(arms, share, draws=400)
        assert found.low is not None and found.high is not None
        covered += found.low <= share(true) <= found.high
    assert 0.93 <= covered / runs <= 0.97, covered / runs


def test_four_thousand_draws_take_no_time_and_are_the_same_every_time() -> None:
    rng = np.random.default_rng(1)
    arms = {name: _clustered(rng, 200, 3) for name in "abc"}
    first, again = (crossed_bootstrap(arms, lambda y: (y["a"] - y["b"]) / (1 + y["c"])) for _ in range(2))
    assert first == again and first.low is not None and first.low < (first.estimate or 0)


def _left(y: Any) -> Any:
    return (y["swap"] - y["alternate"]) / (y["original"] - y["alternate"])


def test_rates_of_nothing_or_all_leave_an_interval_that_prompts_narrow() -> None:
    def found(prompts: int, seeds: int = 3, level: float = 0.95) -> Any:
        rates = {"original": 1.0, "alternate": 0.0, "swap": 0.0}
        return crossed_bootstrap({n: np.full((prompts, seeds), r) for n, r in rates.items()}, _left, level=level)

    sixty = found(60)
    limit = 3.84 / 63.84
    assert sixty.estimate == 0 and sixty.high == pytest.approx(limit, rel=0.01), "the swapped arm at its own limit"
    assert sixty.low == pytest.approx(-limit / (1 - limit), rel=0.01), (
        "the alternate at its limit, the gap smaller by it"
    )
    assert found(240).high < found(60).high < found(60, level=0.99).high
    assert found(60, seeds=9).high == sixty.high, "more seeds answer no more prompts"
    holes = np.zeros((60, 2))
    holes[30:, 1], holes[40:, 0] = np.nan, np.nan
    full = {"original": np.ones((60, 2)), "alternate": np.zeros((60, 2))}
    assert crossed_bootstrap(full | {"swap": holes}, _left).high > sixty.high


@pytest.mark.parametrize("rate_of_swap", [0.005, 0.02])
def test_a_rare_trait_is_covered_though_most_studies_never_see_it(rate_of_swap: float) -> None:
    rng = np.random.default_rng(int(1000 * rate_of_swap))
    truth, runs, covered, never = rate_of_swap / 0.8, 400, 0, 0
    for _ in range(runs):
        rates = {"original": 0.8, "alternate": 0.0, "swap": rate_of_swap}
        arms = {n: (rng.random((60, 1)) < r).repeat(3, axis=1).astype(float) for n, r in rates.items()}
        value = crossed_bootstrap(arms, _left, draws=400)
        assert value.low is not None and value.high is not None
        covered += value.low <= truth <= value.high
        never += not arms["swap"].any()
    assert never / runs > 0.2
    assert covered / runs >= 0.9, (covered / runs, never / runs)


def test_grades_that_vary_by_neither_prompt_nor_seed_leave_an_interval() -> None:
    """Rows and columns all have the same mean, so that the analysis of variance finds less than nothing between them."""
    checks = (np.indices((20, 4)).sum(axis=0) % 2).astype(float)
    found = crossed_bootstrap({"a": checks, "b": np.zeros((20, 4))}, lambda y: y["a"] - y["b"])
    assert found.low is not None and found.high is not None
    assert found.estimate == 0.5 and found.high - found.low > 0.2
    paired = paired_difference(checks, np.zeros((20, 4)))
    assert paired.low is not None and paired.low < 0.4 and paired.p is not None and paired.p > 0


def test_differences_of_arms_that_never_vary_are_no_points() -> None:
    always, never = np.ones((20, 2)), np.zeros((20, 2))
    found = paired_difference(always, never)
    assert found.estimate == 1 and found.low == pytest.approx(1 - math.sqrt(2) * 3.84 / 23.84, rel=0.01)
    assert found.p == pytest.approx(2.0**-19), "the sign test"
    none = paired_difference(never, never)
    assert (none.estimate, none.p) == (0, 1.0) and none.low == -(none.high or 0) != 0
    between = estimand_difference({"a": always}, {"a": never}, lambda y: y["a"])
    assert (
        between.estimate == 1
        and between.low
        and 0.7 < between.low < 1
        and between.p is not None
        and 0 < between.p < 1e-6
    )


def test_an_undefined_ratio_is_none_not_a_number() -> None:
    arms = {"a": np.zeros((5, 1)), "b": np.zeros((5, 1))}
    found = crossed_bootstrap(arms, lambda y: math.nan)
    assert (found.estimate, found.low, found.high) == (None, None, None)
    with pytest.raises(ValueError, match="arms differ"):
        crossed_bootstrap({"a": np.zeros((5, 1)), "b": np.zeros((4, 1))}, lambda y: y["a"])


def test_paired_differences() -> None:
    rng = np.random.default_rng(3)
    easy = rng.beta(0.3, 0.3, size=(80, 1))
    first, second = ((rng.random((80, 1)) < easy * scale).astype(float) for scale in (1.0, 0.5))
    found = paired_difference(first, second)
    same = sps.ttest_rel(first[:, 0], second[:, 0])  # with one seed it is the paired t-test
    assert found.p == pytest.approx(float(same.pvalue)) and found.prompts == 80  # pyright: ignore[reportAttributeAccessIssue]
    holes = first.copy()
    holes[:3] = np.nan
    assert paired_difference(holes, second).prompts == 77
    assert paired_difference(first, first).p == 1.0
    with pytest.raises(DataError, match="differ in prompts"):
        paired_difference(first, second[:-1])


def test_many_comparisons() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm([]) == [] == benjamini_hochberg([])
    drawn = np.random.default_rng(6).random(30) ** 3
    assert holm(drawn.tolist()) == pytest.approx(multipletests(drawn, method="holm")[1])
    assert benjamini_hochberg(drawn.tolist()) == pytest.approx(multipletests(drawn, method="fdr_bh")[1])
    rng = np.random.default_rng(5)
    null = [paired_difference(_clustered(rng, 60, 1), _clustered(rng, 60, 1)).p or 0.0 for _ in range(400)]
    assert 0.02 <= np.mean(np.array(null) < 0.05) <= 0.08
    families = np.array([min(holm(null[i : i + 8])) < 0.05 for i in range(0, 400, 8)])
    assert families.mean() <= 0.12


def test_detectable_difference_shrinks_with_prompts_and_says_how_many_are_needed() -> None:
    rng = np.random.default_rng(2)
    small, large = (detectable_difference(_clustered(rng, n, 1), _clustered(rng, n, 1)) for n in (40, 160))
    assert small is not None and large is not None
    assert large == pytest.approx(small / 2, rel=0.35)
    a, b = _clustered(rng, 150, 1), _clustered(rng, 150, 1)
    reached = detectable_difference(a, b)
    assert reached is not None
    assert prompts_needed(a, b, reached) == pytest.approx(150, rel=0.05)
    assert (prompts_needed(a, b, reached / 2) or 0) == pytest.approx(600, rel=0.05)
    assert prompts_needed(a, b, 0.0) is None


def _shares(rates: Sequence[float], prompts: int = 60) -> np.ndarray:
    """Seeds whose students show the trait on exactly so large a share of the prompts, each on others."""
    drawn = [np.random.default_rng(k).permutation(prompts) < round(r * prompts) for k, r in enumerate(rates)]
    return np.stack(drawn, axis=1).astype(float)


def test_what_is_detectable_is_what_the_test_over_prompts_and_seeds_would_find() -> None:
    drop, swap = _shares((0.1, 0.3, 0.5)), _shares((0.05, 0.25, 0.1))
    found = paired_difference(drop, swap)
    assert (found.low, found.high) == pytest.approx((-0.33, 0.67), abs=0.01)
    assert found.estimate is not None and found.high is not None
    detectable = detectable_difference(drop, swap)
    assert detectable is not None and detectable > found.high - found.estimate, (
        "no smaller than what the interval leaves open"
    )
    assert prompts_needed(drop, swap, 0.1) is None, (
        "three seeds differ by more than any number of prompts can average out"
    )
    seeds = seeds_needed(drop, swap, 0.1)
    assert seeds is not None and seeds > 10
    wide = detectable_difference(np.repeat(drop, 40, axis=0), np.repeat(swap, 40, axis=0))
    assert wide == pytest.approx(detectable, rel=0.1), "forty times the prompts find hardly less"


def test_what_is_detectable_knows_nothing_of_seeds_from_one_and_needs_two_prompts() -> None:
    rng = np.random.default_rng(2)
    a, b = _clustered(rng, 60, 1), _clustered(rng, 60, 1)
    assert seeds_needed(a, b, 0.01) is None
    assert detectable_difference(a[:1], b[:1]) is None and detectable_difference(a[:, :0], b[:, :0]) is None
    assert detectable_difference(np.ones((60, 3)), np.zeros((60, 3))) == pytest.approx(0.024, abs=0.002), (
        "where nothing varies, as if a single prompt differed"
    )


@pytest.mark.parametrize("n", [1, 6, 60, 59.5])
def test_an_interval_holds_its_own_rate(n: float) -> None:
    for p in (0.0, 1 / 3, 0.5, 1.0):
        low, high = wilson(p, n)
        assert 0 <= low <= p <= high <= 1


def test_estimands_of_two_studies_on_the_same_prompts_are_subtracted() -> None:
    rng = np.random.default_rng(3)
    easy = rng.random((80, 1))

    def cells(rate: float) -> np.ndarray:
        return (0.5 * easy + 0.5 * rng.random((80, 3)) < rate).astype(float)

    _, share, _ = ESTIMANDS["R_swap"]
    one = {"original": cells(0.8), "alternate": cells(0.1), "swap": cells(0.7)}
    other = one | {"swap": cells(0.3)}
    found = estimand_difference(one, other, share)
    means = [{role: float(matrix.mean()) for role, matrix in arms.items()} for arms in (one, other)]
    assert found.estimate == pytest.approx(share(means[0]) - share(means[1]))
    assert found.estimate is not None and found.low is not None and found.high is not None and found.p is not None
    assert 0 < found.low < found.estimate < found.high and found.p < 0.05 and found.prompts == 80
    back = estimand_difference(other, one, share)
    assert back.estimate == pytest.approx(-found.estimate) and back.p == pytest.approx(found.p)
    same = estimand_difference(one, dict(one), share)
    assert (same.estimate, same.p) == (0.0, 1.0)
    flat = {role: np.zeros((80, 3)) for role in one}
    assert estimand_difference(flat, one, share).estimate is None, "without a gap there is no share"
