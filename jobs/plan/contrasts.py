"""What a job could find: for each contrast the least effect it detects, and what a given effect would need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.plan.designs import Design, Guesses
from jobs.plan.numbers import named_number
from jobs.plan.pilot import Pilot, read_pilot
from sftfilter.config import did_you_mean
from sftfilter.errors import SpecError

if TYPE_CHECKING:
    from sftfilter.stats import Cells, Variances

EFFECT, EFFECTS = 0.3, {"R_drop_minus_R_swap": 0.25}
"""Looked for unless told otherwise: the gates' own gap, and the least by which swapping has to beat dropping."""


@dataclass(frozen=True)
class Contrast:
    """What can be found of one estimand.

    Attributes:
        detectable: with the prompts, samples and seeds of the spec.
        prompts: that find `effect` with the samples and seeds of the spec (or the gates' fewest seeds, if more); None: no
            number does.
        samples: of each prompt that find it with the prompts of the spec and as many seeds; None: no number does.
        seeds: that find it with the prompts and samples of the spec; None: no number does.
    """

    name: str
    effect: float
    detectable: float
    prompts: int | None
    samples: int | None
    seeds: int | None
    source: str


@dataclass(frozen=True)
class Power:
    """Every contrast.

    Attributes:
        prompts: held-out prompts of the trait proper.
        samples: of each prompt that are drawn for themselves.
        least_seeds: what prompts and samples are reckoned for.
    """

    trait: str
    prompts: int
    samples: int
    seeds: int
    least_seeds: int
    contrasts: Sequence[Contrast]
    assumptions: Sequence[str]


def power_of_design(
    design: Design,
    heldout: Mapping[str, Mapping[str, int]],
    run: Path | None,
    guesses: Guesses,
    effects: Sequence[str],
) -> Power | None:
    """Power of a design's contrasts; None with fewer than two held-out prompts.

    Args:
        heldout: trait -> group -> prompts.
        run: a finished experiment or lattice, whose grades are the pilot where its roles and arms have them.

    Raises:
        SpecError: an effect is of no contrast of the spec, or no number.
        DataError: the run's results are damaged.
    """
    from sftfilter import stats

    spec, gates = design.spec, design.gates
    trait, settings = next(iter(spec.traits.items()))
    prompts, seeds = int(design.share * heldout[trait].get(settings.primary, 0)), len(spec.seeds)
    if prompts < 2:
        return None
    names = list(design.estimands)
    wanted = _effects(effects, names)
    pilot = read_pilot(run) if run else Pilot()
    reckoned = max(seeds, gates.min_seeds)
    samples = settings.samples if settings.temperature > 0 else 1
    contrasts = []
    for name in names:
        variances, source = _variances(design, name, pilot, guesses, settings.temperature > 0)
        found = stats.detectable_effect(variances, prompts, seeds, samples)
        enough = stats.least_prompts(variances, reckoned, wanted[name], samples)
        more = stats.least_samples(variances, prompts, reckoned, wanted[name])
        least = stats.least_seeds(variances, prompts, wanted[name], samples)
        contrasts.append(Contrast(name, wanted[name], found, enough, more, least, source))
    assumptions = _assumptions(contrasts, pilot, guesses, settings.temperature > 0, reckoned)
    if seeds == 1:
        assumptions.append("one seed: what is detectable is so for this one training run")
    if design.share < 1:
        assumptions.append(f"the confirmation reads {prompts} of the held-out prompts, the search the others")
    if seeds < gates.min_seeds:
        assumptions.append(f"gates: with fewer than {gates.min_seeds} seeds nothing is claimed, whatever is found")
    if settings.temperature == 0:
        assumptions.append("at temperature 0 all samples of a prompt are alike, so more of them add nothing")
    return Power(trait, prompts, samples, seeds, reckoned, contrasts, assumptions)


def _effects(stated: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Contrast -> effect, from `0.3` for all and `R_drop_minus_R_swap=0.25` for one."""
    found = {name: EFFECTS.get(name, EFFECT) for name in names}
    for text in stated:
        name, effect = named_number(text)
        if not effect:
            raise SpecError(f"--effect {text}: expected a number above 0, or CONTRAST=NUMBER")
        if name is not None and name not in names:
            hint = did_you_mean(name, names) or f"; there are: {', '.join(names)}"
            raise SpecError(f"--effect {text}: the spec's roles give no contrast '{name}'{hint}")
        found |= dict.fromkeys(names if name is None else (name,), effect)
    return found


def _variances(design: Design, name: str, pilot: Pilot, guesses: Guesses, drawn: bool) -> tuple[Variances, str]:
    """Components of what a sample adds to an estimand, to first order, and where they come from.

    Args:
        drawn: whether samples of a prompt differ.
    """
    from sftfilter import stats

    roles, estimand, _ = design.estimands[name]
    cells = {role: pilot.cells[role] for role in roles if role in pilot.cells}
    if cells and len(cells) == len(roles):
        cells = stats.on_common_seeds(cells)
    means = {role: _mean(cells, role, design, guesses) for role in roles}
    no_gap = {"original", "alternate"} <= means.keys() and abs(means["original"] - means["alternate"]) < 0.05
    if len(cells) < len(roles) or no_gap:  # the pilot lacks an arm, or has no gap to be a share of
        means = {role: design.rate(role, guesses) for role in roles}
        return _guessed(stats.slopes(means, estimand), means, guesses, drawn), "guess"
    slope = stats.slopes(means, estimand)
    sample = 0.0
    if drawn and pilot.samples > 1:
        sample = sum(slope[role] ** 2 * stats.sample_variance(own, pilot.samples) for role, own in cells.items())
    found = stats.variances_of(stats.linearised(cells, means, estimand), pilot.samples, sample)
    one_seed = next(iter(cells.values())).shape[1] == 1
    if drawn and pilot.samples == 1:  # what one sample leaves is split as guessed
        left = found.prompt if one_seed else found.rest
        guess = _guessed(slope, means, guesses, drawn)
        sample = min(guess.sample, left)
        known = (left - sample, found.seed, 0.0) if one_seed else (found.prompt, found.seed, left - sample)
        found = stats.Variances(*known, sample)
    if one_seed:
        found = stats.Variances(found.prompt, _guessed(slope, means, guesses, drawn).seed, found.rest, found.sample)
    return found, "pilot, guess" if one_seed or (drawn and pilot.samples == 1) else "pilot"


def _mean(cells: Mapping[str, Cells], role: str, design: Design, guesses: Guesses) -> float:
    import numpy as np

    return float(np.nanmean(cells[role])) if role in cells else design.rate(role, guesses)


def _guessed(slope: Mapping[str, float], means: Mapping[str, float], guesses: Guesses, drawn: bool) -> Variances:
    """Of independent arms, but for the prompts' effects, which pairs of arms share as far as `pairing` says."""
    from sftfilter.stats import Variances

    spread = {role: rate * (1 - rate) for role, rate in means.items()}
    apart = sum(slope[r] ** 2 * guesses.prompt_share * v for r, v in spread.items())
    shared = sum(slope[r] * (guesses.prompt_share * v) ** 0.5 for r, v in spread.items()) ** 2
    seed = {r: guesses.seed_sd**2 * 4 * v for r, v in spread.items()}
    left = sum(slope[r] ** 2 * max((1 - guesses.prompt_share) * v - seed[r], 0.0) for r, v in spread.items())
    sample = guesses.sample_share * left if drawn else 0.0
    return Variances(
        (1 - guesses.pairing) * apart + guesses.pairing * shared,
        sum(slope[r] ** 2 * v for r, v in seed.items()),
        left - sample,
        sample,
    )


def _assumptions(
    contrasts: Sequence[Contrast], pilot: Pilot, guesses: Guesses, drawn: bool, reckoned: int
) -> list[str]:
    said = [
        "80 % power, two-sided at 5 %, Student's t over prompts crossed with seeds; effects are differences from 0",
        "each contrast by itself; several claims at once, or a sweep's points, need more",
        f"needed: prompts and samples of each for {reckoned} seeds, seeds for the prompts; all else as in the title",
    ]
    if pilot:
        count, of = next(iter(pilot.cells.values())).shape
        many = f", {pilot.samples} samples of each" if pilot.samples > 1 else ""
        said.append(f"pilot: answers to {count} prompts{many}, {of} training seed{'s' * (of != 1)}")
    if any(contrast.source == "pilot, guess" for contrast in contrasts):
        said.append("pilot*: from the pilot, but for what it could not tell, which is guessed")
    if any(contrast.source == "guess" for contrast in contrasts):
        rates = ", ".join(f"{role} {rate:g}" for role, rate in guesses.rates.items())
        said.append(f"guessed rates: {rates}, others {guesses.rate:g}; shares of a subset in proportion")
        said.append(f"guessed: {guesses.prompt_share:.0%} of a grade's variance is the prompt's (prompt_share)")
        said.append(f"guessed: prompts' effects of two arms correlate by {guesses.pairing:g} (pairing)")
    if drawn and (pilot.samples == 1 or any(contrast.source == "guess" for contrast in contrasts)):
        share = f"{guesses.sample_share:.0%}"
        said.append(f"guessed: {share} of what prompt and seed leave differs between samples (sample_share)")
    if any(contrast.source != "pilot" for contrast in contrasts):
        said.append(f"guessed: rates near 50 % vary by {100 * guesses.seed_sd:g} points between seeds (seed_sd)")
    return said
