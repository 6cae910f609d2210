"""What a run lacks, in sentences: a report that is silent about a missing control misleads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report import tables, words

_PARTS = {
    "verdict": "No verdict was reached.",
    "gates": "No gates were evaluated.",
    "estimands": "No estimands could be computed.",
    "spec": "The resolved spec is not recorded.",
    "spec_hash": "The spec's hash is not recorded.",
    "versions": "Package versions are not recorded.",
    "command": "The command to reproduce this run is not recorded.",
    "counts": "Row counts are not recorded.",
}


def missing(results: Mapping[str, Any], rows: Sequence[Any], heldout: Sequence[Any]) -> list[str]:
    """One sentence for each thing that a complete run would have."""
    arms = f.items(results, "arms")
    found = [sentence for key, sentence in _PARTS.items() if not results.get(key)]
    found += lost(results)
    found += _of_arms(arms) if arms else ["There are no arms."]
    if not rows:
        found.append("No training rows were given, so scores and decisions cannot be looked at here.")
    if not heldout:
        found.append("No held-out answers were given, so students cannot be compared answer by answer here.")
    return found


def lost(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each reason for which contrasts are lost, with their names."""
    names: dict[str, list[str]] = {}
    for one in f.items(results, "lost"):
        names.setdefault(str(one.get("why")), []).append(str(one.get("estimand")))
    return [f"{_list(lost, len(lost))} cannot be told: {why}." for why, lost in names.items()]


def _of_arms(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    filled = {arm.get("role") for arm in arms}
    absent = [words.role_words(role).removeprefix("control: ") for role in words.NEEDED_ROLES if role not in filled]
    found = [f"No arm for: {_list(absent)}."] if absent else []
    for arm in arms:
        untrained = [one for one in f.items(arm, "by_seed") if one.get("not_trained")]
        found += [
            f"{arm.get('name')} was not trained with seed {s.get('seed')}: {s['not_trained']}." for s in untrained
        ]
    traits = tables.trait_names(arms)
    if not traits:
        found.append("No arm has been evaluated.")
    for trait in traits:
        for group in tables.group_names(arms, trait):
            names = [str(arm.get("name")) for arm in arms if _ungraded(f.part(arm, "traits", trait, group))]
            if names:
                found.append(f"{trait}, {group} prompts: nothing graded in {_list(names)}.")
    if max((len(f.items(arm, "seeds")) for arm in arms), default=0) <= 1:
        found.append(
            "There is one training seed at most: intervals cover the choice of prompts, not the luck of a training run."
        )
    return found


def _ungraded(rate: Mapping[str, Any]) -> bool:
    return rate.get("estimate") is None


def _list(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
