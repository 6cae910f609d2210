"""What is confirmed of a set that a search has found, on seeds and prompts that the search never saw. Rules only.

The search takes the best-looking of many sets, so its own figures are too good on average (the winner's curse). A claim is
made of fresh students alone, beside random sets of the same size, and both claims are judged together (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sftfilter.estimands import above_clean
from sftfilter.findings import Gates

if TYPE_CHECKING:
    from sftfilter.carriers.search import Seek
    from sftfilter.stats import Cells

Status = Literal["confirmed", "not confirmed", "underpowered", "not measured"]
Claim = Literal["necessary", "sufficient"]

LEVEL = 0.05
NARROW = "interval narrow"
CONTRASTS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "gap": ((), lambda y: y["original"] - y["alternate"], "trait of the original minus that of the alternate teacher"),
    "R_swap": (("swap",), above_clean("swap"), "share left when the alternate teacher answers the set"),
    "R_random_swap": (("random_swap",), above_clean("random_swap"), "control: as many random prompts swapped"),
    "R_random_swap_minus_R_swap": (
        ("swap", "random_swap"),
        lambda y: above_clean("random_swap")(y) - above_clean("swap")(y),
        "what swapping the set removes beyond as many random prompts",
    ),
    "R_transfer": (("transfer",), above_clean("transfer"), "share brought by the original teacher on the set alone"),
    "R_random_transfer": (
        ("random_transfer",),
        above_clean("random_transfer"),
        "control: the original teacher on as many random prompts alone",
    ),
    "R_matched_swap": (
        ("matched_swap",),
        above_clean("matched_swap"),
        "control: as many prompts with answers of like length swapped",
    ),
    "R_matched_transfer": (
        ("matched_transfer",),
        above_clean("matched_transfer"),
        "control: the original teacher on as many prompts with answers of like length alone",
    ),
    "R_transfer_minus_R_random_transfer": (
        ("transfer", "random_transfer"),
        lambda y: above_clean("transfer")(y) - above_clean("random_transfer")(y),
        "what the set brings beyond as many random prompts",
    ),
}
"""Name -> roles beside original and alternate, how it is made of their means, and what it says."""

_BEYOND: Mapping[Claim, tuple[str, str, str]] = {
    "necessary": ("R_random_swap_minus_R_swap", "random_swap", "swap"),
    "sufficient": ("R_transfer_minus_R_random_transfer", "transfer", "random_transfer"),
}


@dataclass(frozen=True)
class Confirmed:
    """The outcome of a confirmation, as results.json has it.

    Attributes:
        verdict: `label`, `summary`, `reasons`, and `claims`: claim -> its status.
        gates: each rule with what was found and whether it is passed.
    """

    verdict: Mapping[str, Any]
    gates: Sequence[Mapping[str, Any]]
    estimands: Mapping[str, Mapping[str, Any]]


def confirm(
    cells: Mapping[str, Cells],
    gates: Gates,
    seek: Seek,
    *,
    broken: Mapping[str, str] | None = None,
    missing: Mapping[str, str] | None = None,
    ungraded: float = 0.0,
) -> Confirmed:
    """Judge a set by the students of its confirmation.

    Args:
        cells: role -> [prompt, seed] of grades; roles are original, alternate, swap, transfer, random_swap,
            random_transfer, matched_swap, matched_transfer and base.
        seek: what the search was for; the other claim is judged as well.
        broken: role -> why its students can do less than the base, so that what they show says nothing.
        missing: role -> what became of its arm.
        ungraded: the largest share of answers without a grade that any arm has.
    """
    found = _estimates(cells)
    common = _common(cells, found, gates, ungraded)
    claims = {claim: _claim(claim, cells, found, gates) for claim in _BEYOND}
    rows = [row for row, _ in common.values()] + [row for checks in claims.values() for row, _ in checks]
    statuses: dict[str, Status] = {claim: _status(checks) for claim, checks in claims.items()}
    reasons = [f"role {role}: {why}" for role, why in (missing or {}).items()]
    reasons += [f"students of role {role} are broken: {why}" for role, why in (broken or {}).items()]
    unmet = next((name for name in ("trait present", "alternate clean") if not common[name][0]["passed"]), None)
    if not {"original", "alternate", "base"} <= set(cells) or broken:
        label = "no verdict"
    elif not common["answers graded"][0]["passed"]:
        label = "no verdict"
        reasons.insert(0, f"gate not passed: {common['answers graded'][0]['rule']}: mend the grader, then run again")
    elif not common["base clean"][0]["passed"]:
        label = "base prior" if common["base clean"][0]["low"] > gates.max_clean_rate else "underpowered"
        reasons.insert(0, f"gate not passed: {common['base clean'][0]['rule']}")
    elif unmet:
        label = "no trait to study"
        reasons.insert(0, f"gate not passed: {common[unmet][0]['rule']}")
    elif not common["enough seeds"][0]["passed"]:
        label = "underpowered"
        reasons.insert(0, f"gate not passed: {common['enough seeds'][0]['rule']}")
    else:
        label = _label(statuses, seek)
        reasons += [line for claim, checks in claims.items() for line in _why(claim, statuses[claim], checks)]
    if label in ("no verdict", "no trait to study", "base prior", "underpowered"):
        statuses = {claim: "underpowered" if s == "confirmed" else s for claim, s in statuses.items()}
    verdict = {"label": label, "summary": SUMMARIES[label], "claims": statuses, "reasons": reasons}
    return Confirmed(verdict, rows, found)


def worth_searching(original: float, alternate: float, gates: Gates) -> bool:
    """Whether there is a trait to search for, by the rates of unchanged students."""
    return original - alternate >= gates.min_gap and alternate <= gates.max_clean_rate


SUMMARIES = {
    "confirmed necessary and sufficient": "Letting the alternate teacher answer this set removes the trait, and the original "
    "teacher on this set alone brings it to clean students; random sets of the same size do neither as much.",
    "confirmed necessary": "Letting the alternate teacher answer this set removes the trait, and a random set of the same "
    "size does not. That the set alone brings the trait is not confirmed.",
    "confirmed sufficient": "The original teacher on this set alone brings the trait to clean students, more than on a "
    "random set of the same size. That swapping the set removes it is not confirmed.",
    "not confirmed": "What the search saw of this set does not hold on fresh seeds and prompts, or random sets do as much.",
    "underpowered": "The confirmation is too thin to say whether the set carries the trait.",
    "no trait to study": "The original teacher's students do not show the trait clearly more than the alternate's, or the "
    "alternate's show it too; there is nothing that a set could carry.",
    "base prior": "The untrained base shows the trait already, so rows need not bring it.",
    "no small set": "No set below the size that was allowed passed the search, so nothing was confirmed.",
    "no verdict": "Students or grades that every claim needs are missing, or students are broken.",
}
"""What each verdict says, in a sentence."""


def _label(statuses: Mapping[str, Status], seek: Seek) -> str:
    confirmed = [claim for claim, status in statuses.items() if status == "confirmed"]
    if confirmed:
        return f"confirmed {' and '.join(confirmed)}"
    sought = [seek] if seek != "both" else list(statuses)
    return "underpowered" if any(statuses[one] != "not confirmed" for one in sought) else "not confirmed"


def _estimates(cells: Mapping[str, Cells]) -> dict[str, dict[str, Any]]:
    from sftfilter.stats import crossed_bootstrap, on_common_seeds

    found: dict[str, dict[str, Any]] = {}
    for name, (roles, estimand, meaning) in CONTRASTS.items():
        needed = ("original", "alternate", *roles)
        if all(role in cells for role in needed):
            arms = on_common_seeds({role: cells[role] for role in needed})
            value = crossed_bootstrap(arms, estimand)
            prompts, seeds = arms["original"].shape
            numbers = {"estimate": value.estimate, "low": value.low, "high": value.high}
            found[name] = numbers | {"n_prompts": prompts, "n_seeds": seeds, "meaning": meaning}
    return found


Check = tuple[dict[str, Any], Status]
"""A gate as results.json has it, and what it makes of a claim by itself."""


def _common(cells: Mapping[str, Cells], found: Mapping[str, Any], gates: Gates, ungraded: float) -> dict[str, Check]:
    from sftfilter.stats import on_common_seeds, rate

    clean, base = (rate(cells[role]).as_dict() if role in cells else {} for role in ("alternate", "base"))
    trained = {role: matrix for role, matrix in cells.items() if role != "base"}
    seeds = {"estimate": float(on_common_seeds(trained)["original"].shape[1])} if "original" in cells else {}
    checks = [
        _at_least("trait present", found.get("gap", {}), gates.min_gap, "gap"),
        _at_most("alternate clean", clean, gates.max_clean_rate, "rate of all-alternate"),
        _at_most("base clean", base, gates.max_clean_rate, "rate of the untrained base"),
        _at_most(
            "answers graded",
            {"estimate": ungraded},
            gates.max_ungraded,
            "share of ungraded answers, the most of any arm,",
        ),
        _at_least("enough seeds", seeds, gates.min_seeds, "training seeds of the confirmation"),
    ]
    return {row["name"]: (row, status) for row, status in checks}


def _claim(claim: Claim, cells: Mapping[str, Cells], found: Mapping[str, Any], gates: Gates) -> list[Check]:
    """Every condition of one claim: the point estimate has to pass, and its interval must not reach the other side."""
    from sftfilter import stats

    works, fails = gates.works_at_most, gates.fails_at_least
    name, more, less = _BEYOND[claim]
    beyond = found.get(name, {})
    if claim == "necessary":
        own = [
            _at_most("swapping works", found.get("R_swap", {}), works, "R_swap", sure=fails),
            _at_least("random swap keeps it", found.get("R_random_swap", {}), gates.control_at_least, "R_random_swap"),
        ]
        matched = _at_least(
            "like length swapped keeps it", found.get("R_matched_swap", {}), gates.control_at_least, "R_matched_swap"
        )
    else:
        own = [
            _at_least("the set brings it", found.get("R_transfer", {}), fails, "R_transfer", sure=works),
            _at_most("a random set brings less", found.get("R_random_transfer", {}), fails, "R_random_transfer"),
        ]
        matched = _at_most("like length brings less", found.get("R_matched_transfer", {}), fails, "R_matched_transfer")
    width = _width(beyond)
    p = None
    if more in cells and less in cells:
        others = [stats.paired_difference(cells[a], cells[b]).p for _, a, b in _BEYOND.values() if {a, b} <= {*cells}]
        mine = stats.paired_difference(cells[more], cells[less]).p
        known = [value for value in others if value is not None]
        p = stats.holm(known)[known.index(mine)] if mine is not None else None
    return [
        *own,
        *([matched] if gates.length_control else []),
        _at_least(f"more than random sets: {claim}", beyond, 0.0, name, sure=0.0),
        _narrow(f"{NARROW}: {claim}", width, gates.max_width, f"to deny a claim: width of the interval of {name}"),
        _narrow(f"by chance: {claim}", p, LEVEL, f"p of {name}, Holm over both claims"),
    ]


def _width(value: Mapping[str, Any]) -> float | None:
    return value["high"] - value["low"] if value.get("low") is not None else None


def _at_least(name: str, value: Mapping[str, Any], bound: float, what: str, sure: float | None = None) -> Check:
    rule = f"{what} >= {bound:g}" + ("" if sure is None else f", and its lower end > {sure:g}")
    return _check(name, value, rule, lambda x: x >= bound, None if sure is None else ("low", lambda x: x > sure))


def _at_most(name: str, value: Mapping[str, Any], bound: float, what: str, sure: float | None = None) -> Check:
    rule = f"{what} <= {bound:g}" + ("" if sure is None else f", and its upper end < {sure:g}")
    return _check(name, value, rule, lambda x: x <= bound, None if sure is None else ("high", lambda x: x < sure))


def _check(name: str, value: Mapping[str, Any], rule: str, holds: Any, surely: tuple[str, Any] | None) -> Check:
    """A point that fails speaks against the claim; one that passes with an interval that does not leaves it open."""
    numbers = {"value": value.get("estimate"), "low": value.get("low"), "high": value.get("high")}
    status: Status = "confirmed"
    if numbers["value"] is None:
        status = "not measured"
    elif not holds(numbers["value"]):
        status = "not confirmed"
    elif surely and (numbers[surely[0]] is None or not surely[1](numbers[surely[0]])):
        status = "underpowered"
    passed = None if status == "not measured" else status == "confirmed"
    return {"name": name, "passed": passed, **numbers, "rule": rule}, status


def _narrow(name: str, value: float | None, bound: float, what: str) -> Check:
    """A figure whose size says only how much is known: above the bound the claim is left open."""
    status: Status = "not measured" if value is None else "confirmed" if value <= bound else "underpowered"
    passed = None if value is None else value <= bound
    row = {"name": name, "passed": passed, "value": value, "low": None, "high": None, "rule": f"{what} <= {bound:g}"}
    return row, status


def _status(checks: Sequence[Check]) -> Status:
    """The worst of the conditions.

    A wide interval that lies wholly on one side is enough to confirm; it is not enough to deny, since a point that fails by
    chance says nothing then.
    """
    statuses = [status for row, status in checks if not row["name"].startswith(NARROW)]
    wide = any(row["name"].startswith(NARROW) and status == "underpowered" for row, status in checks)
    if wide and "not confirmed" in statuses:
        return "underpowered"
    order: tuple[Status, ...] = ("not measured", "not confirmed", "underpowered")
    for status in order:
        if status in statuses:
            return status
    return "confirmed"


def _why(claim: str, status: Status, checks: Sequence[Check]) -> list[str]:
    if status == "confirmed":
        return []
    at = [row["rule"] for row, own in checks if own == status]
    word = {"not confirmed": "does not hold", "underpowered": "is left open", "not measured": "was not measured"}[
        status
    ]
    return [f"{claim}: {word}: {'; '.join(at)}"]
