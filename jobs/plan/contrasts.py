"""What an experiment could find: for each estimand the least effect it detects, and what a given effect would need."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sftfilter.carriers import CONTRASTS
from sftfilter.config import Settings, did_you_mean
from sftfilter.errors import DataError, SpecError
from sftfilter.estimands import ESTIMANDS

if TYPE_CHECKING:
    from jobs.kinds.carriers import Carriers
    from jobs.kinds.experiment import Experiment
    from jobs.kinds.study import Study
    from sftfilter.findings import Gates
    from sftfilter.stats import Cells, Variances

Share = Annotated[float, Field(ge=0, le=1)]
EFFECT, EFFECTS = 0.3, {"R_drop_minus_R_swap": 0.25}
"""Looked for unless told otherwise: the gates' own gap, and the least by which swapping has to beat dropping."""
_ABSENT = ("alternate", "drop_alternate")
_SHOWN = {"original": 0.7, "swap": 0.1, "drop": 0.3, "random_drop": 0.6, "random_swap": 0.6}
Estimands = Mapping[str, tuple[tuple[str, ...], Any, str]]
"""Contrast -> roles that it needs beside original and alternate, how it is made of their rates, and what it says."""


class Guesses(Settings):
    """What stands in for a pilot.

    Attributes:
        rates: role -> share of answers that show the trait; other roles: `rate`.
        prompt_share: share of a grade's variance that belongs to the prompt, the same for every student.
        seed_sd: standard deviation of a rate of one half between training seeds; less towards 0 and 1.
        pairing: correlation of the prompts' effects between two arms, which pairing takes out of differences.
    """

    rates: dict[str, Share] = Field(default={**_SHOWN, **dict.fromkeys(_ABSENT, 0.02)})
    rate: Share = 0.5
    prompt_share: Share = 0.5
    seed_sd: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    pairing: Share = 0.0

    def of(self, role: str) -> float:
        """An arm's rate."""
        return self.rates.get(role, self.rate)


@dataclass(frozen=True)
class Contrast:
    """What can be found of one estimand.

    Attributes:
        detectable: with the prompts and seeds of the spec.
        prompts: that find `effect` with the seeds of the spec (or the gates' fewest, if more); None: no number does.
        seeds: that find it with the prompts of the spec; None: no number does.
    """

    name: str
    effect: float
    detectable: float
    prompts: int | None
    seeds: int | None
    source: str


@dataclass(frozen=True)
class Design:
    """What is compared, whatever kind of job compares it.

    Attributes:
        estimands: those that its arms allow.
        share: of the held-out prompts that the comparison reads.
    """

    spec: Study
    gates: Gates
    estimands: Estimands
    share: float = 1.0

    @classmethod
    def of_experiment(cls, spec: Experiment) -> Design:
        """Every estimand whose roles the spec fills."""
        roles = spec.roles.named()
        filled = {name: one for name, one in ESTIMANDS.items() if all(role in roles for role in one[0])}
        return cls(spec, spec.gates, filled)

    @classmethod
    def of_carriers(cls, spec: Carriers) -> Design:
        """The confirmation, on its own seeds and its part of the held-out prompts."""
        return cls(spec, spec.gates, CONTRASTS, 1 - spec.search_share)


@dataclass(frozen=True)
class Power:
    """Every contrast.

    Attributes:
        prompts: held-out prompts of the trait proper.
        least_seeds: what prompts are reckoned for.
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
        run: a finished experiment, whose grades are the pilot where its roles have them.

    Raises:
        SpecError: an effect is of no contrast of the spec, or no number.
    """
    from sftfilter import stats

    spec, gates = design.spec, design.gates
    trait, settings = next(iter(spec.traits.items()))
    prompts, seeds = int(design.share * heldout[trait].get(settings.primary, 0)), len(spec.seeds)
    if prompts < 2:
        return None
    names = list(design.estimands)
    wanted = _effects(effects, names)
    pilot = pilot_cells(run) if run else {}
    reckoned = max(seeds, gates.min_seeds)
    samples = settings.samples if settings.temperature > 0 else 1
    contrasts = []
    for name in names:
        variances, source = _variances(design.estimands[name], pilot, guesses, samples)
        found = stats.detectable_effect(variances, prompts, seeds)
        enough = stats.least_prompts(variances, reckoned, wanted[name])
        least = stats.least_seeds(variances, prompts, wanted[name])
        contrasts.append(Contrast(name, wanted[name], found, enough, least, source))
    assumptions = _assumptions(contrasts, pilot, guesses)
    if seeds == 1:
        assumptions.append("one seed: what is detectable is so for this one training run")
    if design.share < 1:
        assumptions.append(f"the confirmation reads {prompts} of the held-out prompts, the search the others")
    if seeds < gates.min_seeds:
        assumptions.append(f"gates: with fewer than {gates.min_seeds} seeds nothing is claimed, whatever is found")
    if settings.samples > samples:
        assumptions.append(f"at temperature 0 all {settings.samples} samples of a prompt are alike and add nothing")
    return Power(trait, prompts, settings.samples, seeds, reckoned, contrasts, assumptions)


def _effects(stated: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Contrast -> effect, from `0.3` for all and `R_drop_minus_R_swap=0.25` for one."""
    found = {name: EFFECTS.get(name, EFFECT) for name in names}
    for text in stated:
        name, equals, value = text.rpartition("=")
        try:
            effect = float(value)
        except ValueError:
            effect = 0.0
        if not 0 < effect < float("inf"):
            raise SpecError(f"--effect {text}: expected a number above 0, or CONTRAST=NUMBER")
        if equals and name not in names:
            hint = did_you_mean(name, names) or f"; there are: {', '.join(names)}"
            raise SpecError(f"--effect {text}: the spec's roles give no contrast '{name}'{hint}")
        found |= {name: effect} if equals else dict.fromkeys(names, effect)
    return found


def _variances(
    contrast: tuple[tuple[str, ...], Any, str], pilot: Mapping[str, Cells], guesses: Guesses, samples: int
) -> tuple[Variances, str]:
    """Components of what a prompt and a seed add to an estimand, to first order, and where they come from."""
    from sftfilter import stats

    needs, estimand, _ = contrast
    roles = ("original", "alternate", *needs)
    cells = {role: pilot[role] for role in roles if role in pilot}
    means = {role: _mean(cells, role, guesses) for role in roles}
    slope = stats.slopes(means, estimand)
    guessed = _guessed(slope, means, guesses, samples)
    if len(cells) < len(roles) or abs(means["original"] - means["alternate"]) < 0.05:
        if cells:  # the pilot has no gap to be a share of, or lacks an arm
            means = {role: guesses.of(role) for role in roles}
            guessed = _guessed(stats.slopes(means, estimand), means, guesses, samples)
        return guessed, "guess"
    found = stats.variances_of(stats.linearised(cells, means, estimand))
    if next(iter(cells.values())).shape[1] == 1:
        return stats.Variances(found.prompt, guessed.seed, found.rest), "pilot, guess"
    return found, "pilot"


def _mean(cells: Mapping[str, Cells], role: str, guesses: Guesses) -> float:
    import numpy as np

    return float(np.nanmean(cells[role])) if role in cells else guesses.of(role)


def _guessed(slope: Mapping[str, float], means: Mapping[str, float], guesses: Guesses, samples: int) -> Variances:
    """Of independent arms, but for the prompts' effects, which pairs of arms share as far as `pairing` says."""
    from sftfilter.stats import Variances

    spread = {role: rate * (1 - rate) for role, rate in means.items()}
    apart = sum(slope[r] ** 2 * guesses.prompt_share * v for r, v in spread.items())
    shared = sum(slope[r] * (guesses.prompt_share * v) ** 0.5 for r, v in spread.items()) ** 2
    seed = {r: guesses.seed_sd**2 * 4 * v for r, v in spread.items()}
    rest = {r: max((1 - guesses.prompt_share) * v - seed[r], 0.0) / samples for r, v in spread.items()}
    return Variances(
        (1 - guesses.pairing) * apart + guesses.pairing * shared,
        sum(slope[r] ** 2 * v for r, v in seed.items()),
        sum(slope[r] ** 2 * v for r, v in rest.items()),
    )


def pilot_cells(folder: Path) -> dict[str, Cells]:
    """Role -> grades [prompt, seed] of a finished experiment's first answers; empty where the folder holds none.

    Raises:
        DataError: its results are damaged.
    """
    import numpy as np

    from jobs.report import ROWS

    try:
        results = json.loads((folder / "results.json").read_text())
        with gzip.open(folder / "report" / ROWS, "rt") as source:
            rows = json.load(source)["heldout"]
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: its results are damaged ({error}); run the experiment again") from error
    if results.get("kind") != "experiment":
        return {}
    group = _primary(results["spec"])
    if group is None:
        return {}
    rows = sorted((row for row in rows if row["group"] == group), key=lambda row: row["prompt_id"])
    students = {arm["name"]: arm["students"] for arm in results["arms"]}
    seeds = len(results["spec"]["seeds"])
    found: dict[str, Cells] = {}
    for role, arm in results["spec"]["roles"].items():
        named = students.get(arm, [])
        if rows and role != "base" and len(named) == seeds:
            grades = [[_grade(row, student) for student in named] for row in rows]
            found[role] = np.array(grades, dtype=float)
    return {role: cells for role, cells in found.items() if not np.isnan(cells).all()}


def _primary(spec: Mapping[str, Any]) -> str | None:
    """The first trait's first group, unless another trait has one of that name, from which rows could not be told."""
    first, *others = spec["traits"].values()
    group = next(iter(first["groups"]))
    return None if any(group in other["groups"] for other in others) else group


def _grade(row: Mapping[str, Any], student: str) -> float:
    grade = (row["answers"].get(student) or {}).get("grade")
    return float("nan") if grade is None else grade


def _assumptions(contrasts: Sequence[Contrast], pilot: Mapping[str, Cells], guesses: Guesses) -> list[str]:
    said = [
        "80 % power, two-sided at 5 %, Student's t over prompts crossed with seeds; effects are differences from 0",
        "each contrast by itself; several claims at once, or a sweep's points, need more",
    ]
    if pilot:
        count, of = next(iter(pilot.values())).shape
        said.append(f"pilot: first answers to {count} prompts, {of} training seed{'s' * (of != 1)}")
    if any(contrast.source == "guess" for contrast in contrasts):
        rates = ", ".join(f"{role} {rate:g}" for role, rate in guesses.rates.items())
        said.append(f"guessed rates: {rates}, others {guesses.rate:g}")
        said.append(f"guessed: {guesses.prompt_share:.0%} of a grade's variance is the prompt's (prompt_share)")
        said.append(f"guessed: prompts' effects of two arms correlate by {guesses.pairing:g} (pairing)")
    if any(contrast.source != "pilot" for contrast in contrasts):
        said.append(f"guessed: rates near 50 % vary by {100 * guesses.seed_sd:g} points between seeds (seed_sd)")
    return said
