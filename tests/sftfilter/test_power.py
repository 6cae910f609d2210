"""Power over prompts crossed with training seeds: what is worked out is what simulated studies find."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as sps
from statsmodels.stats.power import TTestPower

from sftfilter.stats import (
    Component,
    Variances,
    components,
    detectable_effect,
    least_prompts,
    least_samples,
    least_seeds,
    power_of,
    sample_variance,
    variances_of,
)

VARIANCES = Variances(prompt=0.08, seed=0.004, rest=0.12)


def _study(rng: np.random.Generator, of: Variances, prompts: int, seeds: int, effect: float) -> np.ndarray:
    def draw(variance: float, *shape: int) -> np.ndarray:
        return rng.normal(0, math.sqrt(variance), shape)

    return effect + draw(of.prompt, prompts, 1) + draw(of.seed, 1, seeds) + draw(of.rest, prompts, seeds)


def _found(values: np.ndarray) -> bool:
    mean = components(values)
    return bool(abs(values.mean()) / mean.standard_error > sps.t.ppf(0.975, mean.freedom))


@pytest.mark.parametrize(("prompts", "seeds", "tolerance"), [(60, 1, 0.04), (60, 4, 0.06), (30, 8, 0.06)])
def test_simulated_studies_find_the_detectable_effect_as_often_as_said(
    prompts: int, seeds: int, tolerance: float
) -> None:
    of = VARIANCES if seeds > 1 else Variances(VARIANCES.prompt, 0.0, VARIANCES.rest)
    effect = detectable_effect(of, prompts, seeds)
    assert power_of(effect, of.planned(prompts, seeds)) == pytest.approx(0.8)
    rng = np.random.default_rng(7)
    found = np.mean([_found(_study(rng, of, prompts, seeds, effect)) for _ in range(800)])
    assert found == pytest.approx(0.8, abs=tolerance)


SAMPLED = Variances(prompt=0.06, seed=0.001, rest=0.01, sample=0.3)


def _sampled(
    rng: np.random.Generator, of: Variances, prompts: int, seeds: int, samples: int, effect: float
) -> np.ndarray:
    """Cell means of a study whose samples are drawn one by one."""
    cells = _study(rng, of, prompts, seeds, effect)
    return (cells[..., None] + rng.normal(0, math.sqrt(of.sample), (prompts, seeds, samples))).mean(axis=-1)


@pytest.mark.parametrize(("prompts", "seeds", "samples"), [(40, 4, 1), (40, 4, 6), (30, 8, 3)])
def test_simulated_studies_with_samples_find_the_detectable_effect_as_often_as_said(
    prompts: int, seeds: int, samples: int
) -> None:
    effect = detectable_effect(SAMPLED, prompts, seeds, samples)
    rng = np.random.default_rng(11)
    found = np.mean([_found(_sampled(rng, SAMPLED, prompts, seeds, samples, effect)) for _ in range(800)])
    assert found == pytest.approx(0.8, abs=0.06)


def test_the_least_samples_are_enough_and_one_fewer_is_not() -> None:
    effect = 0.14
    least = least_samples(SAMPLED, 40, 4, effect)
    assert least is not None and least > 2
    rng = np.random.default_rng(13)
    found = {
        n: np.mean([_found(_sampled(rng, SAMPLED, 40, 4, n, effect)) for _ in range(800)])
        for n in (1, least, 4 * least)
    }
    assert found[1] < 0.7 and found[least] == pytest.approx(0.8, abs=0.06) and found[4 * least] > found[least]
    assert power_of(effect, SAMPLED.planned(40, 4, least)) >= 0.8 > power_of(effect, SAMPLED.planned(40, 4, least - 1))
    assert least_samples(SAMPLED, 40, 4, 0.1) is None  # what is left when samples are averaged out is too much
    assert least_samples(VARIANCES, 60, 4, 1.0) == 1


def test_components_of_binary_samples_are_found_from_their_cells_means() -> None:
    rng = np.random.default_rng(17)
    prompts, seeds, samples = 80, 6, 4
    drawn = []
    for _ in range(300):
        chance = 0.5 + rng.uniform(-0.3, 0.3, (prompts, 1)) + rng.uniform(-0.1, 0.1, (prompts, seeds))
        cells = rng.binomial(samples, chance) / samples
        drawn.append(variances_of(cells, samples, sample_variance(cells, samples)))
    of_prompt, of_rest = 0.6**2 / 12, 0.2**2 / 12
    assert np.mean([one.prompt for one in drawn]) == pytest.approx(of_prompt, rel=0.1)
    assert np.mean([one.rest for one in drawn]) == pytest.approx(of_rest, rel=0.3)
    assert np.mean([one.sample for one in drawn]) == pytest.approx(0.25 - of_prompt - of_rest, rel=0.05)


def test_components_of_a_pilot_are_those_it_was_drawn_with() -> None:
    rng = np.random.default_rng(1)
    drawn = [variances_of(_study(rng, VARIANCES, 80, 6, 0.2)) for _ in range(300)]
    for name in ("prompt", "seed", "rest"):
        assert np.mean([getattr(one, name) for one in drawn]) == pytest.approx(getattr(VARIANCES, name), rel=0.1)


def test_planned_is_what_the_interval_will_be_made_of() -> None:
    values = _study(np.random.default_rng(3), VARIANCES, 50, 5, 0.0)
    seen = variances_of(values)
    assert min(seen.prompt, seen.seed) > 0  # else a component was cut at zero
    planned, interval = seen.planned(50, 5), components(values)
    assert planned.standard_error == pytest.approx(interval.standard_error)
    assert planned.freedom == pytest.approx(interval.freedom)


def test_power_with_one_seed_is_that_of_the_paired_t_test() -> None:
    of = Variances(0.25, 0.0, 0.0)
    ours = power_of(0.2, of.planned(40, 1))
    assert ours == pytest.approx(float(TTestPower().power(effect_size=0.2 / 0.5, nobs=40, alpha=0.05)), abs=1e-6)
    needed = least_prompts(of, 1, 0.2)
    solved = math.ceil(float(TTestPower().solve_power(effect_size=0.4, power=0.8, alpha=0.05)))
    assert needed == solved


def test_the_least_number_is_the_least() -> None:
    prompts = least_prompts(VARIANCES, 8, 0.2)
    assert prompts is not None
    assert power_of(0.2, VARIANCES.planned(prompts, 8)) >= 0.8 > power_of(0.2, VARIANCES.planned(prompts - 1, 8))
    seeds = least_seeds(VARIANCES, 60, 0.15)
    assert seeds is not None
    assert power_of(0.15, VARIANCES.planned(60, seeds)) >= 0.8 > power_of(0.15, VARIANCES.planned(60, seeds - 1))


def test_prompts_cannot_make_up_for_seeds_nor_seeds_for_prompts() -> None:
    assert least_prompts(Variances(0.08, 0.03, 0.12), 3, 0.2) is None
    assert least_seeds(Variances(0.5, 0.0, 0.1), 20, 0.1) is None


def test_what_does_not_vary_is_always_found() -> None:
    still = Variances(0.0, 0.0, 0.0)
    assert detectable_effect(still, 10, 3) == 0.0
    assert (power_of(0.1, still.planned(10, 3)), power_of(0.0, still.planned(10, 3))) == (1.0, 0.05)
    assert power_of(1e9, Component(1.0, 2.0)) == 1.0
