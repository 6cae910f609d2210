"""Students of a carrier search, compiled: each test and the confirmation is an experiment with a listed set of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.kinds.carriers import Carriers
from jobs.kinds.experiment import Arm, Experiment
from jobs.kinds.study import Study
from sftfilter.carriers import Way
from sftfilter.estimands import Roles
from sftfilter.interventions import Swap
from sftfilter.selectors import Selector
from sftfilter.selectors.by_name import Ids
from sftfilter.selectors.controls import LengthMatchedRandom, RandomControl

UNTRAINED, ORIGINAL, ALTERNATE = "untrained", "all-original", "all-alternate"
SET, RANDOM, LIKE_LENGTH = "set", "random as set", "like length as set"
ARMS = {
    "original": ORIGINAL,
    "alternate": ALTERNATE,
    "swap": "set-swapped",
    "random_swap": "random-swapped",
    "transfer": "set-alone",
    "random_transfer": "random-alone",
    "base": UNTRAINED,
    "matched_swap": "like-length-swapped",
    "matched_transfer": "like-length-alone",
}
"""Role in the confirmation -> arm."""


def roles_of(spec: Carriers) -> dict[str, str]:
    """Role -> arm, of the confirmation's arms: those of like length are left out where the spec waives them."""
    return {role: arm for role, arm in ARMS.items() if spec.gates.length_control or not role.startswith("matched")}


def base_test(spec: Carriers) -> Experiment:
    """The ends of the scale: students of either teacher alone, with the seeds of the search."""
    return _searched(spec, {})


def search_test(spec: Carriers, number: int, way: Way, prompts: Sequence[str]) -> tuple[Experiment, str]:
    """One test of the search, and the name of its arm."""
    name = f"{way}-{number}"
    return _searched(spec, {name: _changed(spec, way, SET)}, prompts), name


def confirmation(spec: Carriers, prompts: Sequence[str]) -> Experiment:
    """The found set, and random ones and ones of like length of its size, swapped and alone, with fresh seeds."""
    arms = {
        UNTRAINED: Arm(),
        **_ends(spec),
        ARMS["swap"]: _changed(spec, "swap", SET),
        ARMS["random_swap"]: _changed(spec, "swap", RANDOM),
        ARMS["transfer"]: _changed(spec, "transfer", SET),
        ARMS["random_transfer"]: _changed(spec, "transfer", RANDOM),
    }
    named, subsets = roles_of(spec), _subsets(prompts)
    if "matched_swap" in named:
        arms[ARMS["matched_swap"]] = _changed(spec, "swap", LIKE_LENGTH)
        arms[ARMS["matched_transfer"]] = _changed(spec, "transfer", LIKE_LENGTH)
        subsets[LIKE_LENGTH] = LengthMatchedRandom(kind="length_matched_random", size_of=SET, bins=4)
    roles = Roles(**{role: arm for role, arm in named.items() if role in Roles.model_fields})
    given = _given(spec) | {"seeds": spec.seeds, "arms": arms, "roles": roles, "selectors": subsets}
    return Experiment(kind="experiment", gates=spec.gates, **given)


def _searched(spec: Carriers, arms: dict[str, Arm], prompts: Sequence[str] = ()) -> Experiment:
    trait = next(iter(spec.traits))
    given = _given(spec) | {
        "traits": {trait: spec.traits[trait]},
        "capability": None,
        "seeds": spec.search_seeds,
        "selectors": _subsets(prompts),
        "arms": _ends(spec) | arms,
        "roles": Roles(original=ORIGINAL, alternate=ALTERNATE),
    }
    return Experiment(kind="experiment", gates=spec.gates, **given)


def _given(spec: Carriers) -> dict[str, Any]:
    return {field: getattr(spec, field) for field in Study.model_fields if field != "published"}


def _ends(spec: Carriers) -> dict[str, Arm]:
    return {ORIGINAL: Arm(teacher=spec.original), ALTERNATE: Arm(teacher=spec.alternate)}


def _changed(spec: Carriers, way: Way, subset: str) -> Arm:
    own, other = (spec.original, spec.alternate) if way == "swap" else (spec.alternate, spec.original)
    return Arm(teacher=own, intervention=Swap(kind="swap", subset=subset, to=other))


def _subsets(prompts: Sequence[str]) -> dict[str, Selector]:
    return {
        SET: Ids(kind="ids", ids=list(prompts)),
        RANDOM: RandomControl(kind="random", size_of=SET, match="prompts"),
    }
