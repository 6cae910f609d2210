"""Cells of a lattice, compiled: an experiment for each base and set of prompts, whose arms are teachers and changed subsets.

Nothing here reads a file or loads a model, so that what a lattice comes to can be shown before anything runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from jobs.kinds.experiment import Arm, Experiment
from jobs.kinds.lattice import Corner, Interpolate, Lattice, Mode
from jobs.kinds.study import Measuring, Study
from jobs.spec_errors import flat
from sftfilter.config import stable_hash
from sftfilter.estimands import Roles
from sftfilter.interventions import DropPrompt, Intervention, Neutralise, Swap
from sftfilter.selectors import RandomControl, Selector, ShareOf

UNTRAINED = "untrained"
_SHARED = {*Measuring.model_fields} - {"name", "results", "teachers", "scorers"}
_ROLES: dict[Mode, tuple[str | None, str | None]] = {
    "drop": ("drop", "random_drop"),
    "swap": ("swap", "random_swap"),
    "converse_drop": ("drop_alternate", "random_drop_alternate"),
    "converse_swap": ("transfer", None),
    "neutralise": (None, None),
}
"""What the arm that changes the whole subset is called in the estimands, and its control."""

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
class Step:
    """A point of a curve: a fraction of the subset changed, and as many random prompts.

    Attributes:
        arm, control: arms of the original part; at fraction 0 both are the cell that the curve starts from.
    """

    mode: Mode
    fraction: float
    arm: str
    control: str


@dataclass(frozen=True)
class Part:
    """All cells of one base and one set of prompts, as an experiment.

    Attributes:
        cells: arm -> its cell; arms of the interpolation have none.
        steps: of the interpolation, which is done on the original base and prompts.
    """

    base: str
    prompts: str
    spec: Experiment
    cells: Mapping[str, Corner]
    steps: Sequence[Step]

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
    return "pipeline" if cell == spec.alternate and letters != "ooa" else _CELL_ROLES.get(letters)


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
                earlier = trainings[key].arms if key in trainings else ()
                place = part.base, part.prompts, arm.teacher, arm.intervention
                trainings[key] = Training(key, *place, (*earlier, (part.label, name)))
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
    more: dict[str, Any] = {}
    steps: list[Step] = []
    if spec.interpolate is not None and pair == (spec.original.base, spec.original.prompts):
        starts = dict(zip(corners, (original, alternate), strict=True))
        steps, changed = _curves(spec, spec.interpolate, starts)
        arms |= changed
        roles |= _roles_of(steps)
        more = {"selectors": _shares(spec, spec.interpolate), "scorers": spec.scorers}
    teachers = [t for t in spec.teachers if any(_uses(arm, t) for arm in arms.values())]
    given = _given(spec, base, prompts, teachers) | more
    try:
        made = Experiment(kind="experiment", arms=arms, roles=Roles(**roles), gates=spec.gates, **given)
    except ValidationError as error:
        raise ValueError(f"cells of {base} and {prompts}: {'; '.join(flat(error))}") from None
    return Part(base, prompts, made, named, steps)


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


def _curves(spec: Lattice, given: Interpolate, starts: Mapping[str, str]) -> tuple[list[Step], dict[str, Arm]]:
    """Points of every curve, and the arms that are not cells.

    Args:
        starts: teacher -> the arm of its rows as they are.
    """
    steps, arms = [], {}
    for mode in given.modes:
        teacher = (spec.alternate if mode.startswith("converse") else spec.original).teacher
        for fraction in sorted(given.fractions):
            if fraction == 0:
                steps.append(Step(mode, 0, starts[teacher], starts[teacher]))
                continue
            name = f"{mode}-{100 * fraction:g}"
            step = Step(mode, fraction, name, f"{name}-random")
            for arm, whole in ((step.arm, given.subset), (step.control, _random(given))):
                subset = _share_name(whole, fraction)
                arms[arm] = Arm(teacher=teacher, intervention=_intervention(spec, given, mode, subset))
            steps.append(step)
    return steps, arms


def _intervention(spec: Lattice, given: Interpolate, mode: Mode, subset: str) -> Intervention:
    match mode:
        case "swap":
            return Swap(kind="swap", subset=subset, to=spec.alternate.teacher)
        case "converse_swap":
            return Swap(kind="swap", subset=subset, to=spec.original.teacher)
        case "neutralise":
            assert given.answer is not None
            return Neutralise(kind="neutralise", subset=subset, answer=given.answer)
        case _:
            return DropPrompt(kind="drop_prompt", subset=subset)


def _shares(spec: Lattice, given: Interpolate) -> dict[str, Selector]:
    """The lattice's selectors, the random control of the subset, and the shares of both."""
    whole = _random(given)
    made: dict[str, Selector] = {
        whole: RandomControl(kind="random", size_of=given.subset, match="prompts", seed=given.seed)
    }
    for fraction in given.fractions:
        if 0 < fraction < 1:
            for of in (given.subset, whole):
                share = ShareOf(kind="share_of", of=of, share=fraction, match="prompts", seed=given.seed)
                made[_share_name(of, fraction)] = share
    if taken := sorted({*made} & {*spec.selectors}):
        raise ValueError(f"selectors.{taken[0]}: the interpolation needs this name; rename the selector")
    return dict(spec.selectors) | made


def _random(given: Interpolate) -> str:
    return f"random as {given.subset}"


def _share_name(whole: str, fraction: float) -> str:
    return whole if fraction == 1 else f"{100 * fraction:g}% of {whole}"


def _roles_of(steps: Sequence[Step]) -> dict[str, str]:
    """Roles of the arms that change the whole subset."""
    found: dict[str, str] = {}
    for step in steps:
        if step.fraction == 1:
            pairs = zip(_ROLES[step.mode], (step.arm, step.control), strict=True)
            found |= {role: arm for role, arm in pairs if role}
    return found


def _uses(arm: Arm, teacher: str) -> bool:
    swapped = arm.intervention.teachers if isinstance(arm.intervention, Swap) else []
    return teacher == arm.teacher or teacher in swapped


def _training_key(spec: Lattice, part: Part, arm: Arm) -> str:
    """Equal for arms whose students must come out equal."""
    assert arm.teacher is not None
    subset: Any = None
    names = [arm.teacher]
    if arm.intervention is not None:
        names += [spec.original.teacher, *(t for t in spec.teachers if _uses(arm, t))]
        selectors = {name: one.model_dump(mode="json") for name, one in part.spec.selectors.items()}
        subset = [arm.intervention.model_dump(mode="json"), selectors]
    who = [[name, spec.teachers[name].model_dump(mode="json"), spec.bases[spec.home(name)]] for name in names]
    what = part.spec.prompts.model_dump(mode="json"), part.spec.training.model_dump(mode="json")
    return stable_hash([spec.bases[part.base], *what, who, subset])
