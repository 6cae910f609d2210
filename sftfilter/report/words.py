"""Names of the experiment's parts in words, shared by tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftfilter.estimands import CLAIM_ROLES

ROLES: dict[str, str] = {
    "original": "control: original teacher",
    "alternate": "control: alternate teacher",
    "base": "control: untrained base",
    "drop": "S dropped",
    "drop_row": "flagged rows in S dropped",
    "drop_alternate": "control: S dropped, alternate",
    "swap": "S swapped",
    "random_drop": "control: random drop",
    "random_swap": "control: random swap",
    "matched_drop": "control: like length dropped",
    "matched_swap": "control: like length swapped",
    "filter": "flagged rows dropped everywhere",
    "transfer": "original teacher on S only",
    "random_transfer": "control: original teacher on random prompts only",
    "matched_transfer": "control: original teacher on prompts of like length only",
}

NEEDED_ROLES = (*CLAIM_ROLES, "base")
"""Without these arms an estimand or one of its controls is missing."""

ESTIMANDS: dict[str, str] = {
    "gap": "original minus alternate",
    "R_drop": "left after dropping S",
    "R_swap": "left after swapping S",
    "R_drop_minus_R_swap": "dropping minus swapping",
    "R_drop_row": "left, flagged rows dropped",
    "R_filter": "left, all flagged dropped",
    "R_random_drop": "control: random drop",
    "R_random_swap": "control: random swap",
    "R_matched_drop": "control: like length dropped",
    "R_matched_swap": "control: like length swapped",
    "R_drop_beyond_random": "random minus S, dropped",
    "R_transfer": "original teacher on S only",
    "R_random_transfer": "control: original teacher on random prompts only",
    "R_matched_transfer": "control: original teacher on prompts of like length only",
    "R_random_swap_minus_R_swap": "random minus the set, swapped",
    "R_transfer_minus_R_random_transfer": "the set minus random, alone",
}


def role_words(role: str | None) -> str:
    """What an arm is for; an empty string when it has no role."""
    return ROLES.get(role, role.replace("_", " ")) if role else ""


def intervention_words(intervention: Mapping[str, Any] | None) -> str:
    """`swap evoking to C`."""
    if not intervention:
        return "none"
    words = str(intervention.get("kind") or "unnamed").replace("_", " ")
    if intervention.get("subset"):
        words += f" on {intervention['subset']}"
    to = intervention.get("to")
    if to:
        words += f" to {to}" if isinstance(to, str) else f" to the lowest of {', '.join(map(str, to))}"
    for key, word in (("with_teacher", "with"), ("by", "by")):
        if intervention.get(key):
            words += f" {word} {intervention[key]}"
    return words


def outcome_words(passed: bool | None) -> tuple[str, str]:
    """A gate's outcome and its style."""
    if passed is None:
        return "– not evaluable", "unknown"
    return ("✓ passed", "good") if passed else ("✗ failed", "bad")


def status_words(status: str | None) -> tuple[str, str]:
    """A hypothesis' status and its style."""
    marks = {"supported": ("✓", "good"), "contradicted": ("✗", "bad"), "undecided": ("?", "unknown")}
    mark, style = marks.get(status or "", ("–", "unknown"))
    return f"{mark} {status or 'not tested'}", style
