"""Contrasts that a study was meant to give and does not: which, and what became of the arms that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.arms import ArmPlan
from sftfilter.estimands import lost_estimands
from sftfilter.stats import Cells

_NO_SHARE = "original and alternate show the trait alike, so there is no gap for it to be a share of"
_NO_SEED = "no training seed gave grades in all of its arms"
_WIDE = "the gap between original and alternate may be none, so no interval can be given"


def missing_arms(roles: Mapping[str, str], plans: Sequence[ArmPlan], cells: Mapping[str, Cells]) -> dict[str, str]:
    """Role -> why its arm gave nothing to grade.

    Args:
        roles: role -> arm.
        cells: role -> grades, of the roles that have any.
    """
    return {role: f"arm {arm} {_why_empty(plans, arm)}" for role, arm in roles.items() if role not in cells}


def lost_contrasts(
    roles: Mapping[str, str],
    missing: Mapping[str, str],
    cells: Mapping[str, Cells],
    estimands: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, str]]:
    """`estimand` and `why` of each contrast that the spec's roles ask for and its arms do not give."""
    lost = lost_estimands(cells, {role: missing.get(role, "") for role in roles})
    for name, found in estimands.items():
        if found.get("n_seeds") == 0 and found.get("roles"):
            lost[name] = _NO_SEED
        elif name.startswith("R_") and found["estimate"] is None:
            lost[name] = _NO_SHARE
        elif name.startswith("R_") and found["low"] is None and found["n_prompts"] > 1:
            lost[name] = _WIDE
    return [{"estimand": name, "why": why} for name, why in lost.items()]


def _why_empty(plans: Sequence[ArmPlan], arm: str) -> str:
    own = [plan for plan in plans if plan.name == arm]
    reasons = dict.fromkeys(plan.empty for plan in own if plan.empty)
    if own and all(plan.empty for plan in own):
        return f"was not trained, since {'; '.join(map(str, reasons))}"
    return "gave nothing that could be graded"
