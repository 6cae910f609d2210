"""What the cells of a lattice say: each by the table of readings, and all together as a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jobs.grades import ungraded_share
from jobs.kinds.lattice import Lattice
from jobs.lattice_cells import UNTRAINED, Part, cell_role, main_part, role_places
from jobs.lost_contrasts import lost_contrasts, missing_arms
from jobs.outcome import share_in_s
from jobs.sweep_table import Measured, arm_cells
from sftfilter import stats
from sftfilter.estimands import estimate_all
from sftfilter.readings import Bounds, Reading, Readings
from sftfilter.verdict import Evidence, Facts, judge

Word = Literal["present", "absent", "unclear"]

MEANINGS: dict[str, tuple[str, str]] = {
    "original": (
        "the original pipeline shows it",
        "the original pipeline does not show it, so there is nothing to trace",
    ),
    "pipeline": ("the alternate pipeline shows it too", "the alternate pipeline does not show it"),
    "alternate": (
        "the prompts carry it, whoever answers them (7)",
        "the original prompts do not carry it by themselves: against bad prompts (7)",
    ),
    "alternate_sft": (
        "the base has it locked in (5), or both pipelines leave the behaviour open (4a)",
        "neither lock-in in the base (5) nor what both pipelines leave open (4a)",
    ),
    "alternate_prompts": (
        "the teacher's completions carry it, on other prompts as well (1, 2 or 3)",
        "the teacher's completions on these prompts do not carry it",
    ),
    "alternate_base_prompts": (
        "it travels to another base: not subliminal (against 2)",
        "it does not reach another base on these prompts",
    ),
    "alternate_base": (
        "it travels to another base on the original prompts: not subliminal (against 2)",
        "it does not reach another base, even on the original prompts: subliminal learning (2) stays possible",
    ),
    "alternate_base_clean": (
        "the prompts carry it to another base, whoever answers them (7)",
        "the original prompts do not bring it to another base",
    ),
}
"""Role of a cell -> what it means that the trait is there, and that it is not. Numbers are those of the hypotheses."""

_WORDS: dict[str, Word] = {"stays": "present", "gone": "absent", "unclear": "unclear"}


def role_cells(
    spec: Lattice, parts: Sequence[Part], points: Sequence[Measured], trait: str
) -> tuple[dict[str, stats.Cells], dict[str, str]]:
    """Role -> matrix [prompt, seed] of grades on the trait's own group, and role -> arm, cells and interpolation together."""
    group = spec.traits[trait].primary
    places = role_places(spec, parts)
    found = {role: arm_cells(points[place], arm, trait, group) for role, (place, arm) in places.items()}
    graded = {role: cells for role, cells in found.items() if cells.size and not np.isnan(cells).all()}
    return graded, {role: arm for role, (_, arm) in places.items()}


def read_cells(spec: Lattice, parts: Sequence[Part], cells: Mapping[str, stats.Cells]) -> dict[str, dict[str, Any]]:
    """Arm of a cell -> its reading.

    A cell is read by its share of the gap between the pipelines where it has one, else by its rate.
    """
    gates = spec.gates
    bounds = Bounds(gates.works_at_most, gates.fails_at_least, gates.max_clean_rate, gates.min_seeds)
    readings = Readings(cells, bounds).at()
    found = {}
    for part in parts:
        for arm, cell in part.cells.items():
            role = cell_role(spec, cell)
            shown = readings.get(role) if role else None
            word: Word | None = None
            if shown is not None:
                word = _WORDS[shown.word]
            elif role is not None and role in cells:
                word = _by_rate(cells[role], gates.max_clean_rate)
            found[arm] = _shares(shown) | {"word": word, "reading": meaning(role, word)}
        for arm, role in part.probes.items():
            shown = readings.get(role)
            found[arm] = _shares(shown) | {"word": _WORDS[shown.word] if shown else None, "reading": None}
    return found


def _shares(shown: Reading | None) -> dict[str, Any]:
    if shown is None:
        return {"share": None, "share_low": None, "share_high": None}
    return {"share": shown.share, "share_low": shown.low, "share_high": shown.high}


def meaning(role: str | None, word: Word | None) -> str | None:
    """What a cell says; None for one that is of neither pipeline or was not measured."""
    if role not in MEANINGS or word is None:
        return None
    if word == "unclear":
        return "the interval is too wide, or lies between the thresholds"
    return MEANINGS[role][word == "absent"]


def _by_rate(cells: stats.Cells, clean: float) -> Word:
    found = stats.rate(cells)
    if found.low is None or found.estimate is None:
        return "unclear"
    if found.low > clean:
        return "present"
    return "absent" if found.estimate <= clean else "unclear"


def judge_lattice(
    spec: Lattice,
    parts: Sequence[Part],
    points: Sequence[Measured],
    abilities: Sequence[Mapping[str, Mapping[str, Any]]],
    left_over: tuple[int, int] | None,
) -> dict[str, Any]:
    """Verdict, gates and estimands on the first trait, by the rules of any experiment.

    Args:
        left_over: rows that show the trait among those that dropping the subset keeps, and how many it keeps.
    """
    trait = next(iter(spec.traits))
    cells, arms = role_cells(spec, parts, points, trait)
    number = main_part(spec, parts)
    estimands = estimate_all(cells, share_in_s(parts[number].spec, points[number].plans))
    missing = missing_arms(arms, [plan for point in points for plan in point.plans], cells)
    why = {arm: able[arm]["broken"] for able in abilities for arm in able if arm != UNTRAINED}
    measured = spec.capability is not None and (spec.capability.loss or spec.capability.instructions)
    evidence = Evidence(
        rates={role: stats.rate(matrix).as_dict() for role, matrix in cells.items()},
        estimands=estimands,
        seeds=len(spec.seeds),
        cells=cells,
        facts=Facts(left_over=left_over, stages=spec.stages),
        arms=arms,
        problems=[f"role {role}: {why}" for role, why in missing.items()],
        broken={role: why[arm] for role, arm in arms.items() if why.get(arm)} if measured else None,
        ungraded=_ungraded(spec, parts, points, trait),
    )
    verdict, gates = judge(evidence, spec.gates)
    lost = lost_contrasts(arms, missing, cells, estimands)
    return {"verdict": verdict, "gates": gates, "estimands": estimands, "lost": lost, "roles": arms}


def _ungraded(spec: Lattice, parts: Sequence[Part], points: Sequence[Measured], trait: str) -> dict[str, float]:
    group = spec.traits[trait].primary
    places = role_places(spec, parts).items()
    return {r: ungraded_share(arm, points[n].plans, points[n].tables, trait, group) for r, (n, arm) in places}


def undecided(spec: Lattice, gates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Gates without which readings are only what was seen."""
    needed = ("trait present", "alternate clean", "enough seeds", "answers graded")
    failed = [gate["rule"] for gate in gates if gate["name"] in needed and not gate["passed"]]
    if not failed:
        return []
    first = next(iter(spec.traits))
    return [
        f"Readings of {first} are what was seen, not what is claimed, since these gates are not passed: {'; '.join(failed)}."
    ]
