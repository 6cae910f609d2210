"""Cells of a lattice, compiled: an experiment for each base and set of prompts, whose arms are teachers and changed subsets.

Nothing here reads a file or loads a model, so that what a lattice comes to can be shown before anything runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from jobs.kinds.experiment import Arm, Experiment
from jobs.kinds.lattice import Corner, Lattice
from jobs.kinds.study import Measuring, Study
from jobs.lattice_curves import Step, curves_of, like_length_of, roles_of, shares_of
from jobs.spec_errors import flat
from sftfilter.config import stable_hash
from sftfilter.estimands import Roles
from sftfilter.interventions import Backfill, Intervention, Swap

UNTRAINED = "untrained"
_SHARED = {*Measuring.model_fields} - {"name", "results", "teachers", "scorers", "published"}
_CELL_ROLES = {
    "ooo": "original",
    "ooa": "alternate",
    "oaa": "alternate_sft",
    "oao": "alternate_prompts",
    "aoo": "alternate_base",
    "aao": "alternate_base_prompts",
    "aoa": "alternate_base_clean",
}
"""Base, prompts and teacher, each the original's or the alternate's -> the cell's name in the estimands.

The alternate's own cell is the other pipeline, unless it differs by its teacher alone."""


@dataclass(frozen=True)
class Part:
    """All cells of one base and one set of prompts, as an experiment.

    Attributes:
        cells: arm -> its cell; arms of the interpolation and probes have none.
        steps: of the interpolation, which is done on the original base and prompts.
        probes: arm -> its role.
    """

    base: str
    prompts: str
    spec: Experiment
    cells: Mapping[str, Corner]
    steps: Sequence[Step]
    probes: Mapping[str, str]

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.base}, {self.prompts}"


@dataclass(frozen=True)
class Training:
    """A student to train with every seed, and the arms (each of a part) that it stands for."""

    key: str
    base: str
    prompts: str
    teacher: str
    intervention: Intervention | None
    arms: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Listing:
    """What a lattice comes to.

    Attributes:
        arms: (part, arm, cell), the untrained bases left out; no cell for arms of the interpolation.
        trainings: distinct as far as the spec tells; students whose rows turn out alike are one as well.
    """

    cells: Sequence[Corner]
    arms: Sequence[tuple[str, str, Corner | None]]
    trainings: Sequence[Training]


def cells_of(spec: Lattice) -> list[Corner]:
    """Every cell that is wanted."""
    axes = itertools.product(spec.bases, spec.prompts, spec.teachers)
    every = [Corner(base=base, prompts=prompts, teacher=teacher) for base, prompts, teacher in axes]
    return [cell for cell in every if spec.wanted(cell)]


def cell_name(cell: Corner) -> str:
    """The name of a cell's arm."""
    return f"{cell.base}.{cell.prompts}.{cell.teacher}"


def cell_role(spec: Lattice, cell: Corner) -> str | None:
    """What a cell is in the estimands; None for one that is of neither pipeline along some axis."""
    letters = ""
    for axis, name in dict(cell).items():
        if name == getattr(spec.original, axis):
            letters += "o"
        else:
            letters += "a" if name == getattr(spec.alternate, axis) else "?"
    if cell.prompts == spec.original.prompts and letters[0] == "?":
        return _other_base_role(spec, cell)
    return "pipeline" if cell == spec.alternate and letters != "ooa" else _CELL_ROLES.get(letters)


def _other_base_role(spec: Lattice, cell: Corner) -> str | None:
    """Of a cell on the original prompts and a third base."""
    if cell.base == spec.reseeded:
        by_teacher = {spec.alternate.teacher: "reseeded_clean", spec.original.teacher: "reseeded"}
        return by_teacher.get(cell.teacher)
    return "earlier" if cell.base == spec.earlier and cell.teacher == spec.original.teacher else None


def base_role(spec: Lattice, base: str) -> str | None:
    """What an untrained base is in the estimands."""
    return {spec.original.base: "base", spec.earlier: "base_earlier"}.get(base)


def main_part(spec: Lattice, parts: Sequence[Part]) -> int:
    """Which part is the original base and prompts."""
    return next(
        number
        for number, part in enumerate(parts)
        if (part.base, part.prompts) == (spec.original.base, spec.original.prompts)
    )


def role_places(spec: Lattice, parts: Sequence[Part]) -> dict[str, tuple[int, str]]:
    """Role in the estimands -> its part and arm, of cells, interpolation and probes together."""
    number = main_part(spec, parts)
    places = {role: (number, arm) for role, arm in parts[number].spec.roles.named().items()}
    for place, part in enumerate(parts):
        for arm, cell in part.cells.items():
            if role := cell_role(spec, cell):
                places[role] = (place, arm)
        places |= {role: (place, arm) for arm, role in part.probes.items()}
        if role := base_role(spec, part.base):
            places.setdefault(role, (place, UNTRAINED))
    clean = spec.original.model_copy(update={"teacher": spec.alternate.teacher})
    if clean == spec.original or not spec.wanted(clean):
        places.pop("alternate")  # the part's own experiment has to name some arm
    return places


def homeless(spec: Lattice) -> list[str]:
    """Cells whose tuned teacher has no base to be tuned from, named with what would fill them."""
    found = []
    for teacher, base in spec.tuned_from.items():
        cells = [cell_name(cell) for cell in cells_of(spec) if cell.teacher == teacher]
        if base not in spec.bases and cells:
            found.append(
                f"tuned_from.{teacher}: there is no base '{base}', so cells {', '.join(cells)} cannot be made; "
                f"name it with --set bases.{base}=MODEL, or choose one of: {', '.join(spec.bases)}"
            )
    return found


def parts_of(spec: Lattice) -> list[Part]:
    """Every part with a cell in it.

    Raises:
        ValueError: one is no valid experiment; starts with the part.
    """
    cells = cells_of(spec)
    pairs = dict.fromkeys((cell.base, cell.prompts) for cell in cells)
    return [_part(spec, pair, [cell for cell in cells if (cell.base, cell.prompts) == pair]) for pair in pairs]


def answering(spec: Lattice, base: str, prompts: str, teachers: Sequence[str]) -> Study:
    """What these teachers do on one base and one set of prompts: they are tuned there, and answer."""
    return Study(**_given(spec, base, prompts, teachers))


def list_lattice(spec: Lattice) -> Listing:
    """Cells, arms and distinct trainings; nothing is read or run."""
    trainings: dict[str, Training] = {}
    arms = []
    for part in parts_of(spec):
        for name, arm in part.spec.arms.items():
            if arm.teacher is not None:
                arms.append((part.label, name, part.cells.get(name)))
                key = _training_key(spec, part, arm)
                place = part.base, part.prompts, arm.teacher, arm.intervention
                known = trainings.get(key, Training(key, *place, ()))
                trainings[key] = replace(known, arms=(*known.arms, (part.label, name)))
    return Listing(cells_of(spec), arms, list(trainings.values()))


def _part(spec: Lattice, pair: tuple[str, str], cells: Sequence[Corner]) -> Part:
    base, prompts = pair
    named = {cell_name(cell): cell for cell in cells}
    arms = {UNTRAINED: Arm(), **{name: Arm(teacher=cell.teacher) for name, cell in named.items()}}
    first = next(iter(named))
    by_teacher = {cell.teacher: name for name, cell in named.items()}
    corners = (spec.original.teacher, spec.alternate.teacher)
    original, alternate = (by_teacher.get(teacher, first) for teacher in corners)
    roles = {"original": original, "alternate": alternate, "base": UNTRAINED}
    probes = _probes(spec, pair)
    more: dict[str, Any] = {"selectors": spec.selectors, "scorers": spec.scorers} if probes else {}
    steps: list[Step] = []
    named_roles = {name: str(spec.probes[name].role) for name in probes}
    if spec.interpolate is not None and pair == (spec.original.base, spec.original.prompts):
        starts = dict(zip(corners, (original, alternate), strict=True))
        steps, changed = curves_of(spec, spec.interpolate, starts)
        arms |= changed
        roles |= roles_of(steps)
        controls, changed = like_length_of(spec, spec.interpolate)
        arms |= changed
        named_roles |= controls
        more = {"selectors": shares_of(spec, spec.interpolate), "scorers": spec.scorers}
    _check_roles(probes, named_roles, roles)
    if clash := sorted({*probes} & {*arms}):
        raise ValueError(f"probes.{clash[0]}: a cell or a point of the interpolation has this name; rename the probe")
    arms |= probes
    if any(isinstance(probe.intervention, Backfill) for probe in probes.values()):
        more["reserve"] = spec.reserve
    teachers = [t for t in spec.teachers if any(_uses(arm, t) for arm in arms.values())]
    given = _given(spec, base, prompts, teachers) | more
    try:
        made = Experiment(kind="experiment", arms=arms, roles=Roles(**roles), gates=spec.gates, **given)
    except ValidationError as error:
        raise ValueError(f"cells of {base} and {prompts}: {'; '.join(flat(error))}") from None
    return Part(base, prompts, made, named, steps, named_roles)


def _probes(spec: Lattice, pair: tuple[str, str]) -> dict[str, Arm]:
    """The probes of a part, which are on the original prompts."""
    own = {
        name: probe
        for name, probe in spec.probes.items()
        if pair == (spec.probe_base(probe.role), spec.original.prompts)
    }
    teacher = spec.original.teacher
    return {n: Arm(teacher=p.teacher or teacher, intervention=p.intervention) for n, p in own.items()}


def _check_roles(probes: Mapping[str, Arm], named: Mapping[str, str], roles: Mapping[str, str]) -> None:
    """Each role has one arm."""
    taken = dict(roles) | {role: name for name, role in named.items() if name not in probes}
    for name in probes:
        role = named[name]
        if role in taken:
            raise ValueError(f"probes.{name}: role {role} is that of arm '{taken[role]}' already")
        taken[role] = name


def _given(spec: Lattice, base: str, prompts: str, teachers: Sequence[str]) -> dict[str, Any]:
    """Fields of a study on one base and one set of prompts."""
    own = {
        "name": spec.name,
        "results": spec.results,
        "base_model": spec.bases[base],
        "prompts": spec.prompts[prompts],
        "teachers": {name: spec.teachers[name] for name in teachers},
    }
    return {field: getattr(spec, field) for field in sorted(_SHARED)} | own


def _uses(arm: Arm, teacher: str) -> bool:
    match arm.intervention:
        case Swap():
            others = arm.intervention.teachers
        case Backfill():
            others = [arm.intervention.with_teacher]
        case _:
            others = []
    return teacher == arm.teacher or teacher in others


def _training_key(spec: Lattice, part: Part, arm: Arm) -> str:
    """Equal for arms whose students must come out equal."""
    assert arm.teacher is not None
    subset: Any = None
    names = [arm.teacher]
    if arm.intervention is not None:
        names += [spec.original.teacher, *(t for t in spec.teachers if _uses(arm, t))]
        selectors = {name: one.model_dump(mode="json") for name, one in part.spec.selectors.items()}
        subset = [arm.intervention.model_dump(mode="json"), selectors]
        if isinstance(arm.intervention, Backfill) and part.spec.reserve is not None:
            subset.append(part.spec.reserve.model_dump(mode="json"))
    who = [[name, spec.teachers[name].model_dump(mode="json"), spec.bases[spec.home(name)]] for name in names]
    what = part.spec.prompts.model_dump(mode="json"), part.spec.training.model_dump(mode="json")
    return stable_hash([spec.bases[part.base], *what, who, subset])
