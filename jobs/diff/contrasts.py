"""Rates and estimands of two runs beside each other, and their paired differences where the prompts are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from jobs.diff.read import Key, Run
from jobs.diff.specs import spec_differences
from jobs.grade_table import Graded
from sftfilter import stats
from sftfilter.estimands import MADE_OF

_NOT_CONTRASTED = ("minimum_detectable_difference",)
"""What says how much could have been found, not what was."""
_SAME = "the same students, so nothing is compared"
Value = Mapping[str, Any]
"""estimate, low, high (and n)."""


@dataclass(frozen=True)
class Contrast:
    """One number in both runs.

    Attributes:
        of: arm or estimand.
        a, b: estimate, low, high (and n).
        difference: A - B; None where it cannot be had, and then `why` says so.
        p_holm: adjusted over all contrasts that are shown.
        notes: what has to be known to read it.
    """

    what: Literal["rate", "estimand"]
    of: str
    trait: str | None
    group: str | None
    a: Mapping[str, Any]
    b: Mapping[str, Any]
    difference: stats.Difference | None = None
    p_holm: float | None = None
    why: str | None = None
    notes: Sequence[str] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Lost:
    """What is in one run only, or could not be measured in one."""

    what: str
    why: str


def compare(first: Run, second: Run, every_group: bool) -> tuple[list[Contrast], list[Lost]]:
    """Every contrast of two runs of one kind, and what could not be contrasted at all.

    Args:
        every_group: whether groups of prompts other than the trait's own are shown, and adjusted for, as well.
    """
    lost = list(_only_in_one(first, second))
    notes = {trait: _measured_otherwise(first, second, trait) for trait in first.traits}
    found: list[Contrast] = []
    for key, a in first.rates.items():
        b = second.rates.get(key)
        if b is None or not (every_group or a.primary):
            continue
        missing = [f"{side}: {rate.why}" for side, rate in (("A", a), ("B", b)) if rate.value is None]
        if a.value is None or b.value is None:
            lost.append(Lost(f"{key[0]}, {key[1]} on {key[2]} prompts", "; ".join(missing)))
            continue
        found.append(_rate(first, second, key, (a.value, b.value), notes.get(key[1], [])))
    found += _estimands(first, second, notes, lost)
    return _adjusted(found), lost


def _only_in_one(first: Run, second: Run) -> Iterator[Lost]:
    """Traits, arms and groups of prompts that one run has and the other has not; each told once."""
    if first.kind == "calibrate":
        yield Lost("rates", "a calibration measures scorers; its spec and artifacts are compared")
    told: set[str] = set()
    for side, one, other in (("A", first, second), ("B", second, first)):
        arms = {arm for arm, _, _ in other.rates}
        traits = {trait for _, trait, _ in other.rates}
        for arm, trait, group in one.rates:
            what = f"trait {trait}" if trait not in traits else f"arm {arm}" if arm not in arms else ""
            if not what and (arm, trait, group) not in other.rates:
                what = f"{trait} on {group} prompts"
            if what and what not in told:
                told.add(what)
                yield Lost(what, f"only in {side}")


def _rate(first: Run, second: Run, key: Key, values: tuple[Value, Value], known: Sequence[str]) -> Contrast:
    made, notes = Contrast("rate", *key, *values), list(known)
    graded, why = _graded(first, second, key, key)
    if graded is None:
        return replace(made, why=why)
    x, y = graded
    if x.seeds == y.seeds and _same_students(x, y):
        return replace(made, why=_SAME)
    if x.seeds == y.seeds:
        seeds = len(x.seeds)
        notes += ["one seed: not the luck of a training run"] if seeds == 1 and x.seeds[0] is not None else []
        return replace(made, difference=stats.paired_difference(x.cells, y.cells), notes=notes)
    notes.append(f"seeds differ ({_seeds(x)} against {_seeds(y)}): means over them, prompts only in the interval")
    return replace(made, difference=stats.paired_difference(_means(x), _means(y)), notes=notes)


def _graded(first: Run, second: Run, one: Key, other: Key) -> tuple[tuple[Graded, Graded] | None, str]:
    """Grades of an arm in both runs on the same prompts, or why there are none."""
    pair: list[Graded] = []
    for side, run, key in (("A", first, one), ("B", second, other)):
        if run.grades is None:
            return None, f"{side} kept no grades: run its spec again, which reuses its stages"
        if key not in run.grades:
            return None, f"{side} kept no grades of it"
        pair.append(run.grades[key])
    x, y = pair
    shared = len({*x.prompts} & {*y.prompts})
    if x.prompts != y.prompts:
        others = f"{len(x.prompts) - shared} only in A, {len(y.prompts) - shared} only in B"
        return None, f"other evaluation prompts: {shared} in both, {others}"
    return (x, y), ""


def _same_students(x: Graded, y: Graded) -> bool:
    """Whether both runs asked the very same models, and graded what they answered alike."""
    known = x.models == y.models and None not in x.models
    return known and np.array_equal(x.cells, y.cells, equal_nan=True)


def _measured_otherwise(first: Run, second: Run, trait: str) -> list[str]:
    """A note for each setting of the trait that differs, but for the file that its prompts come from."""
    start = f"traits.{trait}."
    changed = [row["field"].split(start)[-1] for row in spec_differences(first, second) if start in f"{row['field']}."]
    other = [name for name in changed if not name.startswith("prompts")]
    return [f"measured with another {', '.join(other)}"] if other else []


def _means(graded: Graded) -> stats.Cells:
    """Each prompt's mean over seeds: [prompt, 1]."""
    some = ~np.isnan(graded.cells).all(axis=1)
    found = np.full((len(graded.prompts), 1), np.nan)
    found[some, 0] = np.nanmean(graded.cells[some], axis=1)
    return found


def _seeds(graded: Graded) -> str:
    return ", ".join("untrained" if seed is None else str(seed) for seed in graded.seeds)


def _estimands(first: Run, second: Run, notes: Mapping[str, Sequence[str]], lost: list[Lost]) -> Iterator[Contrast]:
    """Estimands of both runs; those of one are added to `lost`."""
    a, b = (run.record.get("estimands") or {} for run in (first, second))
    for name in dict.fromkeys([*a, *b]):
        if name in _NOT_CONTRASTED:
            continue
        if name not in a or name not in b:
            side = "A" if name in a else "B"
            lost.append(Lost(name, f"only in {side}: the other run lacks an arm that it needs, or its grades"))
            continue
        x, y = ({key: one[name].get(key) for key in ("estimate", "low", "high")} for one in (a, b))
        undefined = [side for side, value in (("A", x), ("B", y)) if value["estimate"] is None]
        if undefined:
            lost.append(Lost(name, f"not estimable in {' and '.join(undefined)}"))
            continue
        yield _estimand(first, second, name, (x, y), notes)


def _estimand(
    first: Run, second: Run, name: str, values: tuple[Value, Value], notes: Mapping[str, Sequence[str]]
) -> Contrast:
    traits = [next(iter(run.traits), None) for run in (first, second)]
    made, trait = Contrast("estimand", name, traits[0], None, *values), traits[0]
    if name not in MADE_OF:
        return replace(made, why="follows from the rows, not from grades")
    roles, estimand, _ = MADE_OF[name]
    if trait is None or trait != traits[1]:
        return replace(made, why=f"of other traits: {trait} against {traits[1]}")
    group = next(iter(first.record["spec"]["traits"][trait]["groups"]))
    pairs: dict[str, tuple[Graded, Graded]] = {}
    for role in roles:
        arms = [run.roles.get(role) for run in (first, second)]
        if arms[0] is None or arms[1] is None:
            return replace(made, why=f"role {role} is not recorded")
        pair, why = _graded(first, second, (arms[0], trait, group), (arms[1], trait, group))
        if pair is None:
            return replace(made, why=f"role {role}: {why}")
        if pair[0].seeds != pair[1].seeds:
            return replace(made, why=f"seeds differ ({_seeds(pair[0])} against {_seeds(pair[1])})")
        pairs[role] = pair
    if all(_same_students(*pair) for pair in pairs.values()):
        return replace(made, why=_SAME)
    x, y = ({role: pair[side].cells for role, pair in pairs.items()} for side in (0, 1))
    return replace(made, difference=stats.estimand_difference(x, y, estimand), notes=notes.get(trait, ()))


def _adjusted(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Holm over every contrast that has a p-value."""
    known = [c.difference.p for c in contrasts if c.difference and c.difference.p is not None]
    adjusted = iter(stats.holm(known))
    return [replace(c, p_holm=next(adjusted)) if c.difference and c.difference.p is not None else c for c in contrasts]
