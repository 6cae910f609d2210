"""Findings: the gates, and what may be said of dropping and swapping S. Rules only; nothing is judged by a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sftfilter.case import Facts
from sftfilter.config import Settings
from sftfilter.estimands import CLAIM_ROLES

if TYPE_CHECKING:
    from sftfilter.stats import Cells

Rate = Annotated[float, Field(ge=0, le=1)]


class Gates(Settings):
    """Thresholds that a claim must pass, frozen in the spec before any arm runs."""

    min_gap: Annotated[Rate, Field(description="original minus alternate")] = 0.3
    max_clean_rate: Annotated[Rate, Field(description="of the alternate, and of the base for no base prior")] = 0.05
    fails_at_least: Annotated[Rate, Field(description="R_drop of a filter that fails")] = 0.5
    works_at_most: Annotated[Rate, Field(description="R of an intervention that works")] = 0.25
    control_at_least: Annotated[Rate, Field(description="R of a random control")] = 0.8
    max_width: Annotated[float, Field(gt=0, description="of the interval of R_drop - R_swap")] = 0.5
    dilution_margin: Annotated[
        Rate,
        Field(description="how far from dilution, and from a random swap, a swap may still be to pass for no better"),
    ] = 0.2
    length_control: Annotated[
        bool,
        Field(
            description="a claim on S needs the control of like length (roles matched_drop, matched_swap); false where "
            "lengths cannot be matched"
        ),
    ] = True
    max_ungraded: Annotated[
        Rate, Field(description="of an arm's answers: those without a grade may be the very ones that show the trait")
    ] = 0.05
    min_seeds: Annotated[int, Field(gt=0, description="training seeds; with fewer, intervals cover prompts only")] = 3


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made from.

    Attributes:
        rates: role -> {estimate, low, high, n} on the primary group.
        seeds: training seeds of the spec; what arms lost of them counts as well, see `trained_seeds`.
        estimands: as `estimands.estimate_all` gives them.
        broken: role -> why its students can do less than the base, so that what they show says nothing; None: not measured.
        cells: role -> matrix [prompt, seed] of grades, which the hypotheses are read from.
        facts: what the rows and the base's history say without any training.
        arms: role -> name of its arm.
        ungraded: role -> share of its answers that have no grade.
    """

    rates: Mapping[str, Mapping[str, Any]]
    estimands: Mapping[str, Mapping[str, Any]]
    seeds: int
    cells: Mapping[str, Cells] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    arms: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = field(default_factory=list)
    broken: Mapping[str, str] | None = None
    ungraded: Mapping[str, float] = field(default_factory=dict)

    @property
    def trained_seeds(self) -> int:
        """Training seeds of which every arm that a claim reads has grades."""
        from sftfilter.stats import on_common_seeds

        arms = {role: self.cells[role] for role in ("pipeline", *CLAIM_ROLES) if role in self.cells}
        return min(self.seeds, next(iter(on_common_seeds(arms).values())).shape[1]) if arms else self.seeds

    @property
    def comparator(self) -> str:
        """The clean students' role: the alternate pipeline where it was trained, else the alternate teacher."""
        return "pipeline" if "pipeline" in self.rates else "alternate"


def check_all(evidence: Evidence, gates: Gates) -> dict[str, dict[str, Any]]:
    rates, found = evidence.rates, evidence.estimands
    seeds = {"estimate": float(evidence.trained_seeds)}
    difference = found.get("R_drop_minus_R_swap")
    width = None
    if difference and difference["low"] is not None:
        width = {"estimate": difference["high"] - difference["low"]}
    low = {"estimate": difference["low"], "low": difference["low"], "high": difference["high"]} if difference else None
    gap = "pipeline_gap" if "pipeline_gap" in found else "gap"
    rows = [
        _at_least("trait present", found.get(gap), gates.min_gap, gap.replace("_", " ")),
        _at_most("alternate clean", rates.get(evidence.comparator), gates.max_clean_rate, "rate of all-alternate"),
        _at_most("base clean", rates.get("base"), gates.max_clean_rate, "rate of the untrained base"),
        _at_least("enough seeds", seeds, gates.min_seeds, "training seeds graded in every arm that a claim reads"),
        _able(evidence),
        _graded(evidence, gates.max_ungraded),
        _at_most("interval narrow", width, gates.max_width, "width of the interval of R_drop - R_swap"),
        _at_least("dropping fails", found.get("R_drop"), gates.fails_at_least, "R_drop"),
        _at_most("dropping works", found.get("R_drop"), gates.works_at_most, "R_drop"),
        _at_most("dropping surely works", _upper(found.get("R_drop")), gates.fails_at_least, "upper end of R_drop"),
        _at_most("nothing brings it back", found.get("R_drop_total"), gates.works_at_most, "R_drop_total"),
        _at_most(
            "surely nothing does", _upper(found.get("R_drop_total")), gates.fails_at_least, "upper end of R_drop_total"
        ),
        _at_most("swapping works", found.get("R_swap"), gates.works_at_most, "R_swap"),
        _at_least("random drop keeps it", found.get("R_random_drop"), gates.control_at_least, "R_random_drop"),
        _at_least("random swap keeps it", found.get("R_random_swap"), gates.control_at_least, "R_random_swap"),
        _matched("like length dropped keeps it", "R_matched_drop", found, gates),
        _matched("like length swapped keeps it", "R_matched_swap", found, gates),
        _at_least("swap beats drop", low, 0.0, "lower end of R_drop - R_swap", strict=True),
        _at_least("swapping surely leaves it", _lower(found.get("R_swap")), gates.works_at_most, "lower end of R_swap"),
        _on_the_line("no better than dilution", "R_swap", found, gates.dilution_margin),
        _on_the_line("random swap dilutes as much", "R_random_swap", found, gates.dilution_margin),
        _alike("no better than a random swap", "R_random_swap_minus_R_swap", found, gates.dilution_margin),
    ]
    return {row["name"]: row for row in rows}


def _upper(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {"estimate": value["high"]} if value else None


def _lower(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {"estimate": value["low"]} if value else None


def shown(evidence: Evidence, gates: Gates) -> bool:
    """Whether the original's students show the trait at all: without it no hypothesis about it is decided."""
    original = evidence.rates.get("original")
    return bool(original and original["low"] is not None and original["low"] > gates.max_clean_rate)


def _gate(name: str, value: Mapping[str, Any] | None, rule: str, passed: bool | None) -> dict[str, Any]:
    shown = {key: value.get(key) if value else None for key in ("estimate", "low", "high")}
    return {
        "name": name,
        "passed": passed,
        "value": shown["estimate"],
        "low": shown["low"],
        "high": shown["high"],
        "rule": rule,
    }


def _at_least(
    name: str, value: Mapping[str, Any] | None, bound: float, what: str, strict: bool = False
) -> dict[str, Any]:
    number = value.get("estimate") if value else None
    passed = None if number is None else (number > bound if strict else number >= bound)
    return _gate(name, value, f"{what} {'>' if strict else '>='} {bound:g}", passed)


def _at_most(name: str, value: Mapping[str, Any] | None, bound: float, what: str) -> dict[str, Any]:
    number = value.get("estimate") if value else None
    return _gate(name, value, f"{what} <= {bound:g}", None if number is None else number <= bound)


def _able(evidence: Evidence) -> dict[str, Any]:
    passed = None if evidence.broken is None else not evidence.broken
    rule = "students can do what the base can: held-out loss, instructions, answers that neither loop nor are empty"
    return _gate("students able", None, rule, passed)


def _graded(evidence: Evidence, bound: float) -> dict[str, Any]:
    """Of the role that lacks most grades: which answers lack them seldom is chance, and may differ between arms."""
    role, share = max(evidence.ungraded.items(), key=lambda one: one[1], default=("", 0.0))
    whose = f" of {role}" if share else ""
    return _at_most(
        "answers graded", {"estimate": share}, bound, f"share of ungraded answers{whose}, the most of any role,"
    )


def _matched(name: str, role: str, found: Mapping[str, Mapping[str, Any]], gates: Gates) -> dict[str, Any]:
    """The control of like length; passed unseen where the spec says that it cannot be had."""
    check = _at_least(name, found.get(role), gates.control_at_least, role)
    if check["passed"] is None and not gates.length_control:
        return check | {"passed": True, "rule": f"{check['rule']} (waived by the spec: length_control is false)"}
    return check


def _on_the_line(name: str, role: str, found: Mapping[str, Mapping[str, Any]], margin: float) -> dict[str, Any]:
    """On the dilution line: its interval holds it, and the estimate is within the margin of it."""
    value, line = found.get(role), found.get("dilution_line")
    passed = None
    if value and line and value["high"] is not None:
        near = abs(value["estimate"] - line["estimate"]) <= margin
        passed = near and value["low"] <= line["estimate"] <= value["high"]
    share = f" ({line['estimate']:.2f})" if line else ""
    rule = f"{role} within {margin:g} of the dilution line 1 - f{share}, which its interval holds"
    return _gate(name, value, rule, passed)


def _alike(name: str, contrast: str, found: Mapping[str, Mapping[str, Any]], margin: float) -> dict[str, Any]:
    """A difference is shown to be no larger than the margin (one-sided at 2.5 %), not merely not shown to be there."""
    value = found.get(contrast)
    passed = None
    if value and value["high"] is not None:
        passed = value["high"] <= margin and value["low"] <= 0
    return _gate(name, value, f"interval of {contrast} ends below {margin:g} and holds or lies under 0", passed)


_CONTROLS = ("base clean",)
CLAIMS: Mapping[str, Sequence[str]] = {
    "filtering fails, swapping works": (
        *_CONTROLS,
        "dropping fails",
        "swapping works",
        "swap beats drop",
        "random swap keeps it",
        "like length swapped keeps it",
        "interval narrow",
    ),
    "filter works": (
        *_CONTROLS,
        "dropping works",
        "dropping surely works",
        "nothing brings it back",
        "surely nothing does",
        "random drop keeps it",
        "like length dropped keeps it",
    ),
    "dilution only": (
        *_CONTROLS,
        "no better than dilution",
        "random swap dilutes as much",
        "no better than a random swap",
        "swapping surely leaves it",
        "interval narrow",
    ),
}
"""Claim -> the gates that it has to pass, apart from those of every verdict; a random drop has to be there for each."""


def claim(checks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The claim whose gates all pass, apart from those on seeds and width."""
    if checks["random drop keeps it"]["passed"] is None:
        return None
    return next((name for name, needed in CLAIMS.items() if all(checks[gate]["passed"] for gate in needed)), None)


def _failed(checks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What keeps each claim from being made, of what could be looked at."""
    lines = []
    for name, needed in CLAIMS.items():
        failed = [checks[gate] for gate in needed if checks[gate]["passed"] is False]
        if failed:
            told = [f"{gate['rule']}, found {_number(gate)}" for gate in failed]
            lines.append(f"not {name}: {'; '.join(told)}")
    return lines


def find(checks: Mapping[str, Mapping[str, Any]], evidence: Evidence, gates: Gates) -> tuple[str, list[str]]:
    if checks["trait present"]["passed"] is None or checks["alternate clean"]["passed"] is None:
        return "no verdict", ["all-original or all-alternate is missing or ungraded"]
    line = evidence.estimands.get("dilution_line")
    if line and line["estimate"] in (0.0, 1.0):
        return "no verdict", [
            "S is empty" if line["estimate"] else "S holds every prompt, so there is nothing to compare"
        ]
    base = evidence.rates.get("base")
    if base and base["low"] is not None and base["low"] > gates.max_clean_rate:
        return "base prior", [f"base rate {_percent(base)}, above {gates.max_clean_rate:.0%} with its whole interval"]
    for name in ("trait present", "alternate clean"):
        if not checks[name]["passed"]:
            return "no trait to study", [f"gate failed: {checks[name]['rule']}; found {_number(checks[name])}"]
    if not checks["enough seeds"]["passed"]:
        return "underpowered", [_too_few_seeds(evidence, gates)]
    if checks["students able"]["passed"] is False:
        return "no verdict", ["students are broken, and a broken student is not a safe one"]
    if checks["answers graded"]["passed"] is False:
        check = checks["answers graded"]
        return "no verdict", [
            f"gate failed: {check['rule']}; found {check['value']:.0%}. Answers that cannot be graded may be the very ones that "
            "show the trait: see in grades.parquet what the grader said of them, mend it, then run again"
        ]
    alternate = evidence.rates.get("alternate")
    if alternate and alternate["estimate"] is not None and alternate["estimate"] > gates.max_clean_rate:
        return "undecided", [
            f"students of the alternate teacher on the original prompts show it as well ({_percent(alternate)}), so what "
            "dropping or swapping S does cannot be told from what their comparator does"
        ]
    if checks["interval narrow"]["passed"] is False:
        return "underpowered", [
            f"gate failed: {checks['interval narrow']['rule']}; found {_number(checks['interval narrow'])}"
        ]
    claimed = claim(checks)
    if claimed:
        needed = [c for c in checks.values() if c["passed"] and c["value"] is not None]
        return claimed, [f"{c['rule']}: found {_number(c)}" for c in needed]
    unmet = [c for c in checks.values() if c["passed"] is None]
    missing = [f"not evaluable: {c['rule']} (arm missing or ungraded)" for c in unmet]
    return "undecided", ["no stated claim passes all of its gates", *_failed(checks), *missing]


def _too_few_seeds(evidence: Evidence, gates: Gates) -> str:
    seeds = evidence.trained_seeds
    had = f"{seeds} training seed{'s' * (seeds != 1)}"
    if seeds < evidence.seeds:
        had += f" of {evidence.seeds} graded in every arm that a claim reads"
    return f"{had}, {gates.min_seeds} needed: the intervals below cover the choice of prompts, not the luck of a training run"


def _percent(value: Mapping[str, Any]) -> str:
    if value["estimate"] is None:
        return "could not be graded"
    return f"{value['estimate']:.0%} [{value['low']:.0%}, {value['high']:.0%}]"


def _number(check: Mapping[str, Any]) -> str:
    value, low, high = check["value"], check["low"], check["high"]
    return f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else "")
