"""Whether arms are what their roles say: a control that is none would pass every gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sftfilter.estimands import Roles
from sftfilter.interventions import Intervention, Swap
from sftfilter.selectors import LengthMatchedRandom, RandomControl, Selector

if TYPE_CHECKING:
    from jobs.kinds.experiment import Arm

_TEACHER_OF = {
    "drop": "original",
    "swap": "original",
    "random_drop": "original",
    "random_swap": "original",
    "matched_drop": "original",
    "matched_swap": "original",
    "drop_alternate": "alternate",
    "transfer": "alternate",
}
"""Role -> the role of the unchanged arm whose rows it changes."""
_SAME_AS = {
    "random_drop": "drop",
    "matched_drop": "drop",
    "drop_alternate": "drop",
    "random_swap": "swap",
    "matched_swap": "swap",
}
"""Role -> the role whose intervention it shares; controls act on another subset."""
_ON_S = ("drop", "swap", "drop_alternate", "transfer")
_KINDS = {"drop": ("drop_prompt", "backfill"), "swap": ("swap",), "transfer": ("swap",)}


def check_roles(roles: Roles, arms: Mapping[str, Arm], selectors: Mapping[str, Selector]) -> None:
    """Check the roles that claims on S are made from; without any of those that change S, there is none.

    Raises:
        ValueError: an arm is not what its role says; names role, arm and what it should be.
    """
    named = roles.named()
    if "base" in named and arms[named["base"]].teacher is not None:
        raise ValueError(
            f"roles.base: arm '{named['base']}' is trained; this role is of the untrained base, an arm {{}}"
        )
    changed = {role: _intervention(role, named[role], arms) for role in _TEACHER_OF if role in named}
    for role in ("original", "alternate") if changed else ():
        if arms[named[role]].intervention is not None:
            raise ValueError(f"roles.{role}: arm '{named[role]}' has an intervention; this role is of unchanged rows")
    for role in changed:
        _check_teacher(role, named, arms)
    subsets = {role: changed[role].subset for role in _ON_S if role in changed}
    if len(set(subsets.values())) > 1:
        told = ", ".join(f"{role} changes '{subset}'" for role, subset in subsets.items())
        raise ValueError(
            f"roles: {told}; estimands compare what happens to one subset, so name the same in all of them"
        )
    for role, like in _SAME_AS.items():
        if role in changed and like in changed:
            _check_control(role, like, named, changed, selectors)


def _intervention(role: str, name: str, arms: Mapping[str, Arm]) -> Intervention:
    found = arms[name].intervention
    if found is None:
        raise ValueError(f"roles.{role}: arm '{name}' changes nothing; this role needs an intervention")
    kinds = _KINDS.get(_SAME_AS.get(role, role), ())
    if found.kind not in kinds:
        raise ValueError(f"roles.{role}: arm '{name}' has a {found.kind}; this role is of {' or '.join(kinds)}")
    return found


def _check_teacher(role: str, named: Mapping[str, str], arms: Mapping[str, Arm]) -> None:
    whose, name = _TEACHER_OF[role], named[role]
    teacher, other = arms[named[whose]].teacher, "alternate" if whose == "original" else "original"
    if arms[name].teacher != teacher:
        raise ValueError(
            f"roles.{role}: arm '{name}' has the rows of teacher '{arms[name].teacher}'; this role changes those of "
            f"'{teacher}', the teacher of roles.{whose}"
        )
    intervention = arms[name].intervention
    if isinstance(intervention, Swap) and arms[named[other]].teacher not in intervention.teachers:
        raise ValueError(
            f"roles.{role}: arm '{name}' swaps to {', '.join(intervention.teachers)}; this role swaps to "
            f"'{arms[named[other]].teacher}', the teacher of roles.{other}"
        )


def _check_control(
    role: str,
    like: str,
    named: Mapping[str, str],
    changed: Mapping[str, Intervention],
    selectors: Mapping[str, Selector],
) -> None:
    """It does to other rows, or to another teacher's, exactly what is done to S."""
    own, whole = (changed[one].model_dump(exclude={"subset"}) for one in (role, like))
    if own != whole:
        raise ValueError(
            f"roles.{role}: arm '{named[role]}' does something else than '{named[like]}' (roles.{like}), which it is the "
            "control of; only the subset may differ"
        )
    if role == "drop_alternate":
        return
    kind, words = (
        (RandomControl, "random") if role.startswith("random") else (LengthMatchedRandom, "length_matched_random")
    )
    selector, subset = selectors.get(changed[role].subset), changed[like].subset
    if not isinstance(selector, kind) or selector.size_of != subset:
        raise ValueError(
            f"roles.{role}: arm '{named[role]}' changes '{changed[role].subset}'; this control changes what a selector "
            f"{{kind: {words}, size_of: {subset}}} draws"
        )
