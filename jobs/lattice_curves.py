"""The interpolation of a lattice, compiled: growing shares of one subset, each beside as many random prompts, as plain arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.kinds.experiment import Arm
from jobs.kinds.lattice import Interpolate, Lattice, Mode
from sftfilter.interventions import DropPrompt, Intervention, Neutralise, Swap
from sftfilter.selectors import LengthMatchedRandom, RandomControl, Selector, ShareOf

ROLES: dict[Mode, tuple[str | None, str | None]] = {
    "drop": ("drop", "random_drop"),
    "swap": ("swap", "random_swap"),
    "converse_drop": ("drop_alternate", "random_drop_alternate"),
    "converse_swap": ("transfer", None),
    "neutralise": (None, None),
}
"""What the arm that changes the whole subset is called in the estimands, and its control."""
_LIKE_LENGTH: dict[Mode, str] = {"drop": "matched_drop", "swap": "matched_swap"}
"""The same of the control of like length."""


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


def curves_of(spec: Lattice, given: Interpolate, starts: Mapping[str, str]) -> tuple[list[Step], dict[str, Arm]]:
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


def like_length_of(spec: Lattice, given: Interpolate) -> tuple[dict[str, str], dict[str, Arm]]:
    """Controls of like length for the whole subset: arm -> its role, and the arms."""
    wanted = given.like_length and 1 in given.fractions
    modes: list[Mode] = [mode for mode in given.modes if wanted and mode in _LIKE_LENGTH]
    teacher = spec.original.teacher
    arms = {
        f"{mode}-100-matched": Arm(teacher=teacher, intervention=_intervention(spec, given, mode, _matched(given)))
        for mode in modes
    }
    return dict(zip(arms, (_LIKE_LENGTH[mode] for mode in modes), strict=True)), arms


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


def shares_of(spec: Lattice, given: Interpolate) -> dict[str, Selector]:
    """The lattice's selectors, the random control of the subset, and the shares of both."""
    whole = _random(given)
    made: dict[str, Selector] = {
        whole: RandomControl(kind="random", size_of=given.subset, match="prompts", seed=given.seed)
    }
    if like_length_of(spec, given)[0]:
        matched = LengthMatchedRandom(kind="length_matched_random", size_of=given.subset, seed=given.seed)
        bins = matched.bins if given.like_length is True else given.like_length
        made[_matched(given)] = matched.model_copy(update={"bins": bins})
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


def _matched(given: Interpolate) -> str:
    return f"like length as {given.subset}"


def _share_name(whole: str, fraction: float) -> str:
    return whole if fraction == 1 else f"{100 * fraction:g}% of {whole}"


def roles_of(steps: Sequence[Step]) -> dict[str, str]:
    """Roles of the arms that change the whole subset."""
    found: dict[str, str] = {}
    for step in steps:
        if step.fraction == 1:
            pairs = zip(ROLES[step.mode], (step.arm, step.control), strict=True)
            found |= {role: arm for role, arm in pairs if role}
    return found
