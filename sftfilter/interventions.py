"""Interventions on a subset S, decided row by row and written down with their reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from sftfilter.config import Settings
from sftfilter.errors import DataError
from sftfilter.selectors import Subset


class DropPrompt(Settings):
    """Every row of the prompts in S is dropped."""

    kind: Literal["drop_prompt"]
    subset: str


class DropRow(Settings):
    """Only the rows in S are dropped; other rows of the same prompts stay and act as counter-examples."""

    kind: Literal["drop_row"]
    subset: str


class Swap(Settings):
    """On the prompts in S, another teacher's answers stand in for this one's."""

    kind: Literal["swap"]
    subset: str
    to: str


Intervention = Annotated[DropPrompt | DropRow | Swap, Field(discriminator="kind")]


def decide(
    rows: Sequence[Mapping[str, Any]],
    intervention: DropPrompt | DropRow | Swap | None,
    subset: Subset | None,
    partners: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """A decision for every row of the arm's teacher.

    Args:
        rows: rollout_id and prompt_id of the arm's teacher, one row or several a prompt.
        subset: S; needed for every intervention.
        partners: for a swap, the other teacher's rollout ids by prompt id.

    Raises:
        DataError: a prompt in S has no partner, or not as many answers, from the teacher swapped to.
    """
    if intervention is None or subset is None:
        return [_decision(row, "keep", "no intervention", None) for row in rows]
    if isinstance(intervention, Swap):
        _check_partners(rows, subset, partners, intervention.to)
    answered: dict[str, int] = {}
    decisions: list[dict[str, Any]] = []
    for row in rows:
        inside = row["prompt_id"] in subset.prompt_ids
        match intervention:
            case DropRow():
                hit = row["rollout_id"] in subset.rollout_ids
                decisions.append(_decision(row, "drop" if hit else "keep", _reason("row", hit, subset), subset))
            case DropPrompt():
                decisions.append(
                    _decision(row, "drop" if inside else "keep", _reason("prompt", inside, subset), subset)
                )
            case Swap():
                number = answered.get(row["prompt_id"], 0)
                answered[row["prompt_id"]] = number + 1
                partner = partners[row["prompt_id"]][number] if inside else None
                action = "swap" if inside else "keep"
                decisions.append(_decision(row, action, _reason("prompt", inside, subset), subset, partner))
    return decisions


def trained_rows(decisions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(prompt id, rollout id) of what is trained on after the decisions."""
    return [(d["prompt_id"], d["replaced_by"] or d["rollout_id"]) for d in decisions if d["action"] != "drop"]


def _reason(what: str, inside: bool, subset: Subset) -> str:
    return f"{what} {'in' if inside else 'not in'} subset '{subset.name}'"


def _decision(
    row: Mapping[str, Any], action: str, reason: str, subset: Subset | None, partner: str | None = None
) -> dict[str, Any]:
    return {
        "prompt_id": row["prompt_id"],
        "action": action,
        "reason": reason,
        "rollout_id": row["rollout_id"],
        "replaced_by": partner,
        "selector": subset.name if subset else None,
        "threshold": subset.threshold if subset else None,
    }


def _check_partners(
    rows: Sequence[Mapping[str, Any]], subset: Subset, partners: Mapping[str, Sequence[str]], to: str
) -> None:
    wanted: dict[str, int] = {}
    for row in rows:
        if row["prompt_id"] in subset.prompt_ids:
            wanted[row["prompt_id"]] = wanted.get(row["prompt_id"], 0) + 1
    unanswered = sorted(subset.prompt_ids - wanted.keys())
    if unanswered:
        raise DataError(
            f"swap to teacher '{to}': {len(unanswered)} prompts in subset '{subset.name}' have no answer from this arm's own "
            f"teacher, so nothing can be swapped there: prompt ids {', '.join(unanswered[:5])}"
        )
    lacking = [p for p, n in sorted(wanted.items()) if len(partners.get(p, ())) < n]
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise DataError(
            f"swap to teacher '{to}': {len(lacking)} of {len(wanted)} prompts in subset '{subset.name}' have no (or too "
            f"few) answers from it: prompt ids {shown}. Let '{to}' answer these prompts, or select others."
        )
