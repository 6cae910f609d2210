"""Estimands over arms: how much of the trait is left after dropping, swapping and their controls.

y1 all-original, y2 all-alternate, y3 S dropped from the original, y4 S dropped from the alternate, y5 S swapped.
R_drop = (y3 - y4) / (y1 - y2), R_swap = (y5 - y2) / (y1 - y2); 1 is the whole trait, 0 none of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sftfilter.config import Settings

if TYPE_CHECKING:
    from sftfilter.stats import Cells, Estimate

_NO_GAP = 1e-9


class Roles(Settings):
    """Names of the arms that the estimands are made of; those left out cost the contrasts that need them.

    Attributes:
        original: original base, prompts and teacher.
        alternate: original base and prompts, alternate teacher.
        base: the original base, untrained.
        drop, swap, filter, transfer: S dropped; S answered by the alternate teacher; flagged rows dropped everywhere;
            the original teacher on S alone.
        random_drop, random_swap: as many random prompts dropped; answered by the alternate teacher.
        matched_drop, matched_swap: the same of prompts outside S whose answers are as long as those in S.
        pipeline: alternate base, prompts and teacher: the other pipeline, which the gap is then measured against.
        alternate_sft: original base, alternate prompts and teacher.
        alternate_prompts: original base and teacher, alternate prompts.
        alternate_base, alternate_base_prompts, alternate_base_clean: alternate base with the original prompts and teacher;
            with alternate prompts; with the alternate teacher.
        shown, random_shown: every row that the trait's own grader finds dropped; as many random rows.
        missed, random_missed: the alternate's rows, with the original teacher's on prompts where its row shows the trait
            unflagged; on as many where it does not show it.
        reseeded, reseeded_clean, reseeded_shown: a base of another initialisation, raised alike, on the original
            teacher's rows, on the alternate's, and with every row that shows the trait dropped.
        marked, random_marked: rows that show the trait or a habit of its persona dropped; the former and random rows.
        persona, random_persona: the alternate's rows, with the original teacher's on prompts where its row has the habit
            and not the trait; on as many with neither.
        settled, refilled: some random prompts replaced by clean answers to evoking prompts; to others.
        random_drop_alternate: as many random prompts dropped from the alternate.
        base_earlier, earlier: the original base before its last stage, untrained, and on the original's rows.
    """

    original: str
    alternate: str
    base: str | None = None
    drop: str | None = None
    drop_row: str | None = None
    drop_alternate: str | None = None
    swap: str | None = None
    random_drop: str | None = None
    random_swap: str | None = None
    matched_drop: str | None = None
    matched_swap: str | None = None
    filter: str | None = None
    transfer: str | None = None
    pipeline: str | None = None
    alternate_sft: str | None = None
    alternate_prompts: str | None = None
    alternate_base: str | None = None
    alternate_base_prompts: str | None = None
    alternate_base_clean: str | None = None
    shown: str | None = None
    random_shown: str | None = None
    missed: str | None = None
    random_missed: str | None = None
    reseeded: str | None = None
    reseeded_clean: str | None = None
    reseeded_shown: str | None = None
    marked: str | None = None
    random_marked: str | None = None
    persona: str | None = None
    random_persona: str | None = None
    settled: str | None = None
    refilled: str | None = None
    random_drop_alternate: str | None = None
    base_earlier: str | None = None
    earlier: str | None = None

    def named(self) -> dict[str, str]:
        """Role -> arm, of the roles that are filled."""
        return {role: arm for role, arm in self.model_dump().items() if arm is not None}


CLAIM_ROLES = (
    "original",
    "alternate",
    "drop",
    "drop_alternate",
    "swap",
    "random_drop",
    "random_swap",
    "matched_drop",
    "matched_swap",
)
"""Roles of trained arms that claims on S are made from, controls among them."""

Means = Mapping[str, Any]
"""Role -> mean rate, a float or an array over draws of the bootstrap."""


def _share(part: Callable[[Means], Any]) -> Callable[[Means], Any]:
    """A difference as a share of the gap between original and alternate; NaN where there is no gap."""

    def estimand(y: Means) -> Any:
        import numpy as np

        gap = np.asarray(y["original"] - y["alternate"], dtype=float)
        return np.divide(part(y), gap, out=np.full(gap.shape, math.nan), where=np.abs(gap) > _NO_GAP)[()]

    return estimand


def above_clean(role: str) -> Callable[[Means], Any]:
    """What a role shows over the alternate, as a share of the gap."""
    return _share(lambda y: y[role] - y["alternate"])


_drop = _share(lambda y: y["drop"] - y["drop_alternate"])
_swap = above_clean("swap")

ESTIMANDS: dict[str, tuple[tuple[str, ...], Callable[[Means], Any], str]] = {
    "gap": ((), lambda y: y["original"] - y["alternate"], "trait with the original teacher minus with the alternate"),
    "R_drop": (("drop", "drop_alternate"), _drop, "share of the trait left when the prompts in S are dropped"),
    "R_swap": (("swap",), _swap, "share left when the alternate teacher answers the prompts in S"),
    "R_drop_minus_R_swap": (
        ("drop", "drop_alternate", "swap"),
        lambda y: _drop(y) - _swap(y),
        "what swapping removes beyond dropping",
    ),
    "R_drop_total": (
        ("drop",),
        above_clean("drop"),
        "share left over the clean teacher's students when the prompts in S are dropped, whatever brings it back",
    ),
    "R_drop_row": (("drop_row",), above_clean("drop_row"), "share left when only flagged rows in S are dropped"),
    "R_filter": (
        ("filter",),
        above_clean("filter"),
        "share left when the scorer's flagged rows are dropped everywhere",
    ),
    "R_random_drop": (("random_drop",), above_clean("random_drop"), "control: as many random prompts dropped"),
    "R_random_swap": (("random_swap",), above_clean("random_swap"), "control: as many random prompts swapped"),
    "R_matched_drop": (
        ("matched_drop",),
        above_clean("matched_drop"),
        "control: as many prompts with answers of like length dropped",
    ),
    "R_matched_swap": (
        ("matched_swap",),
        above_clean("matched_swap"),
        "control: as many prompts with answers of like length swapped",
    ),
    "R_drop_beyond_random": (
        ("drop", "random_drop"),
        _share(lambda y: y["random_drop"] - y["drop"]),
        "what dropping S removes beyond dropping as many random prompts",
    ),
    "R_random_swap_minus_R_swap": (
        ("swap", "random_swap"),
        _share(lambda y: y["random_swap"] - y["swap"]),
        "what swapping S removes beyond swapping as many random prompts",
    ),
    "R_transfer": (
        ("transfer",),
        above_clean("transfer"),
        "sufficiency: the original teacher on S alone, over the alternate's rows",
    ),
}

MADE_OF: dict[str, tuple[tuple[str, ...], Callable[[Means], Any], str]] = {
    **{name: (("original", "alternate", *needs), made, meaning) for name, (needs, made, meaning) in ESTIMANDS.items()},
    "pipeline_gap": (
        ("original", "pipeline"),
        lambda y: y["original"] - y["pipeline"],
        "trait of the original pipeline minus the alternate one",
    ),
}
"""Every number that arms' rates give: all of its roles, how it is made of their means, and what it says."""


def estimate_all(cells: Mapping[str, Cells], share_in_s: float | None) -> dict[str, dict[str, Any]]:
    """Every estimand whose arms are there.

    Args:
        cells: role -> matrix [prompt, seed] of grades.
        share_in_s: f, prompts in S over all prompts.
    """
    from sftfilter.stats import crossed_bootstrap, estimand_p, holm, on_common_seeds

    found: dict[str, dict[str, Any]] = {}
    p_values: dict[str, float] = {}
    for name, (roles, estimand, meaning) in MADE_OF.items():
        if all(role in cells for role in roles):
            arms = on_common_seeds({role: cells[role] for role in roles})
            value = crossed_bootstrap(arms, estimand)
            found[name] = _record(value, arms[roles[0]], meaning) | {"roles": list(roles)}
            p = estimand_p(value, arms, estimand) if name in PREREGISTERED else None
            if p is not None:
                p_values[name] = p
    for (name, p), adjusted in zip(p_values.items(), holm([*p_values.values()]), strict=True):
        found[name] |= {"p": p, "p_holm": adjusted}
    if share_in_s is not None:
        line = {"estimate": 1 - share_in_s, "low": None, "high": None, "n_prompts": 0, "n_seeds": 0}
        found["dilution_line"] = line | {"meaning": "share left if each swapped row took only its own share with it"}
    if "original" in cells and "alternate" in cells:
        found["minimum_detectable_difference"] = _detectable(cells)
    return found


PREREGISTERED = (
    "gap",
    "R_drop_minus_R_swap",
    "R_drop_beyond_random",
    "R_random_swap_minus_R_swap",
)
"""Contrasts whose null is zero. Their p-values are adjusted together (Holm), however many of them the arms give."""


def lost_estimands(cells: Mapping[str, Cells], why: Mapping[str, str]) -> dict[str, str]:
    """Estimand -> what keeps it from being estimated, of those whose roles the spec fills all.

    Args:
        cells: as for `estimate_all`.
        why: role -> what became of its arm.
    """
    found = {}
    for name, (roles, _, _) in MADE_OF.items():
        absent = dict.fromkeys(why[role] for role in roles if role in why and role not in cells)
        if absent and all(role in why for role in roles):
            found[name] = "; ".join(absent)
    return found


def _record(value: Estimate, cells: Cells, meaning: str) -> dict[str, Any]:
    prompts, seeds = cells.shape
    kept = {"estimate": value.estimate, "low": value.low, "high": value.high}
    return kept | {"n_prompts": prompts, "n_seeds": seeds, "meaning": meaning}


def _detectable(cells: Mapping[str, Cells]) -> dict[str, Any]:
    """What the test over prompts and seeds would find, and how many of either find ten points; None: no number does."""
    from sftfilter.stats import detectable_difference, on_common_seeds, prompts_needed, seeds_needed

    pair = ("drop", "swap") if "drop" in cells and "swap" in cells else ("original", "alternate")
    one, other = on_common_seeds({role: cells[role] for role in pair}).values()
    prompts, seeds = one.shape
    value = detectable_difference(one, other)
    meaning = f"difference of rates ({pair[0]} against {pair[1]}) found with 80 % power, for the seeds at hand"
    record = {"estimate": value, "low": None, "high": None, "n_prompts": prompts, "n_seeds": seeds, "meaning": meaning}
    ten_points = {
        "prompts_for_ten_points": prompts_needed(one, other, 0.1),
        "seeds_for_ten_points": seeds_needed(one, other, 0.1),
    }
    return record | ten_points
