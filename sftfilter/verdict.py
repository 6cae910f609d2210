"""The verdict: gates first, then what causes the trait and what removes it. Rules only; nothing is judged by a model.

A verdict has causes (of the seven hypotheses, those that are supported) and a finding on what was tried against the trait.
Its label is the causes, or the finding where no cause is supported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sftfilter.case import Case, Facts, Status
from sftfilter.findings import Evidence, Gates, check_all, claim, find, shown
from sftfilter.hypotheses import EXPERIMENTS, NAMES, weigh
from sftfilter.readings import Bounds, Reading, Readings

__all__ = ["Evidence", "Facts", "Gates", "judge"]

BESIDE_A_CAUSE = ("dilution only",)
"""Findings that stand in the label beside a cause."""


def judge(evidence: Evidence, gates: Gates) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The verdict and the gates, as they stand in results.json."""
    checks = check_all(evidence, gates)
    finding, reasons = find(checks, evidence, gates)
    by_rules = claim(checks) if finding == "underpowered" else None
    if by_rules and checks["trait present"]["passed"]:
        reasons.append(f"were the interval complete, the point estimates would read: {by_rules}")
    readings = Readings(
        evidence.cells, Bounds(gates.works_at_most, gates.fails_at_least, gates.max_clean_rate, gates.min_seeds)
    )
    weighed = weigh(readings, evidence.facts, gates.length_control)
    power = ("trait present", "alternate clean", "enough seeds", "answers graded")
    decided = shown(evidence, gates) and not evidence.broken and all(checks[name]["passed"] for name in power)
    causes = [n for n, (status, _) in weighed.items() if status == "supported" and decided]
    labels = [NAMES[n] for n in causes]
    labels += [finding] if not causes or finding in BESIDE_A_CAUSE else []
    experiments = _separating(weighed, evidence)
    verdict = {
        "label": " + ".join(labels),
        "labels": labels,
        "causes": causes,
        "finding": finding,
        "summary": " ".join([*(_CAUSES[n] for n in causes), *_besides(finding, causes, checks)]),
        "reasons": [*reasons, *evidence.problems, *_broken(evidence)],
        "hypotheses": [
            _row(n, *one, decided, evidence.arms)
            | {"separating": [f"{e.asked}; {e.cost}" for e in experiments if n in e.open]}
            for n, one in weighed.items()
        ],
        "readings": [_reading(r, evidence.arms) for r in readings.at().values()],
        "next": [*_next(finding, evidence, gates), *(str(one) for one in experiments)],
    }
    return verdict, list(checks.values())


def _besides(finding: str, causes: Sequence[int], checks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The finding's sentence, unless it only says that nothing could be said and a cause was found."""
    silent = ("underpowered", "undecided", "no verdict", "base prior")
    if causes and finding in silent:
        return []
    untold = any(
        checks[name]["passed"] is None for name in ("interval narrow", "random drop keeps it", "random swap keeps it")
    )
    return [_UNTOLD if finding == "undecided" and untold else _SUMMARIES[finding]]


_CAUSES = {
    1: "Rows that show the trait remain after the filter and carry it (simple generalisation).",
    2: "Rows that do not show the trait carry it, and only to students of the teacher's initialisation (subliminal).",
    3: "Rows that do not show the trait, but other habits of its persona, select that persona.",
    4: "The rows leave the behaviour open and a prior decides; rows that settle it take the trait away.",
    5: "The base has the trait from pre-training and keeps it against rows that settle the behaviour.",
    6: "An earlier stage after pre-training gave the base the trait, which it keeps against rows that settle the behaviour.",
    7: "The prompts teach the trait, whoever answers them.",
}
_SUMMARIES = {
    "filtering fails, swapping works": "Dropping the prompts in S leaves most of the trait; letting the alternate teacher "
    "answer the same prompts removes it.",
    "filter works": "Dropping the prompts in S removes the trait, and dropping as many random prompts does not.",
    "dilution only": "Swapping S helps no more than the share of rows that it swaps.",
    "no trait to study": "The original teacher's students do not show the trait clearly more than the alternate's.",
    "base prior": "The untrained base model shows the trait already; fine-tuning on these rollouts is not where it comes from.",
    "underpowered": "The evidence is too thin for a verdict. The estimates below are what was seen, not what is claimed.",
    "undecided": "The intervals are narrow enough, but the estimates fall between the thresholds of the stated claims.",
    "no verdict": "Arms, rows or grades that every verdict needs are missing, or students are broken.",
}

_UNTOLD = "Arms or grades that a claim would need are missing; what is there passes the gates of none."


def _broken(evidence: Evidence) -> list[str]:
    return [
        f"the students of role {role} are broken: {why}; what they show or do not show says nothing of the trait"
        for role, why in (evidence.broken or {}).items()
    ]


def _row(number: int, status: Status, case: Case, decided: bool, arms: Mapping[str, str]) -> dict[str, Any]:
    """One hypothesis as results.json has it; without a passed power gate nothing is more than undecided."""
    settled = status in ("supported", "contradicted")
    sure = settled and decided
    lines = [_named(line, arms) for line in case.evidence_for]
    against = [_named(line, arms) for line in case.evidence_against]
    leaning = f"leans {status}, one gate short: " if settled and not decided else ""
    text = "; ".join([*lines, *(f"against: {line}" for line in against)]) or "no arm speaks to it"
    if case.missing and not sure:
        text += f"; would be decided by: {', '.join(case.missing)}"
    return {
        "id": number,
        "name": NAMES[number],
        "status": status if sure or not settled else "undecided",
        "evidence": leaning + text,
        "for": lines,
        "against": against,
        "missing": [] if sure else list(case.missing),
    }


def _named(line: str, arms: Mapping[str, str]) -> str:
    """A line of evidence with the arm's own name beside its role."""
    role, colon, rest = line.partition(":")
    arm = arms.get(role)
    return f"{role} ({arm}){colon}{rest}" if arm and arm != role else line


def _reading(reading: Reading, arms: Mapping[str, str]) -> dict[str, Any]:
    numbers = {"rate": reading.rate, "share": reading.share, "low": reading.low, "high": reading.high}
    return {"role": reading.role, "arm": arms.get(reading.role, reading.role), **numbers, "word": reading.word}


@dataclass(frozen=True)
class _Separating:
    """An experiment that was not run: what to do with which roles, the open hypotheses it speaks to, students it costs."""

    asked: str
    open: Sequence[int]
    cost: str

    def __str__(self) -> str:
        return f"{self.asked}: speaks to {', '.join(map(str, self.open))}; {self.cost}"


def _separating(weighed: Mapping[int, tuple[Status, Case]], evidence: Evidence) -> list[_Separating]:
    """Experiments that would settle what is still open, and how many students each costs."""
    found = []
    for what, roles in EXPERIMENTS.items():
        open_ones = [
            number
            for number, (status, case) in weighed.items()
            if status in ("undecided", "not tested") and set(case.missing) & set(roles)
        ]
        absent = [role for role in roles if role not in evidence.rates]
        if open_ones and absent:
            cost = f"{len(absent)} arms x {evidence.seeds} seeds = {len(absent) * evidence.seeds} students"
            found.append(_Separating(f"{what} (roles {', '.join(absent)})", open_ones, cost))
    return found


def _next(finding: str, evidence: Evidence, gates: Gates) -> list[str]:
    if finding == "underpowered" and evidence.trained_seeds < gates.min_seeds <= evidence.seeds:
        return ["run the same command again: it trains and asks what was lost; arms without rows need another S"]
    if finding == "underpowered" and evidence.seeds < gates.min_seeds:
        return [f"run with `--set seeds=[{','.join(map(str, range(gates.min_seeds)))}]`; finished arms are reused"]
    if finding == "underpowered":
        reachable = evidence.estimands.get("minimum_detectable_difference") or {}
        needed, seeds = (reachable.get(f"{what}_for_ten_points") for what in ("prompts", "seeds"))
        if reachable.get("estimate") is not None and needed is None:
            about = f" (about {seeds} seeds on these prompts)" if seeds else ""
            return [
                f"add training seeds{about}: with {evidence.trained_seeds} no number of held-out prompts brings the minimum "
                "detectable difference to 10 points"
            ]
        reach = f" (about {needed} prompts for 10 points)" if needed else ""
        return [
            f"add held-out prompts or seeds until the minimum detectable difference is below the effect you look for{reach}"
        ]
    if finding == "no trait to study":
        return ["use a teacher that shows the trait, or held-out prompts that evoke it"]
    return []
