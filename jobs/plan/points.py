"""Points of a sweep without Ray Tune's samplers: values that would be drawn are spread evenly instead."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.kinds.sweep import Choice, Grid, LogUniform, Uniform
from jobs.sweep_points import points_of

if TYPE_CHECKING:
    from jobs.kinds.experiment import Experiment
    from jobs.kinds.sweep import Axis, Sweep


def planned_points(spec: Sweep) -> tuple[list[Experiment], list[str]]:
    """The experiment of every point, and the fields whose values only stand in for drawn ones."""
    drawn = [field for field, axis in spec.space.items() if not isinstance(axis, Grid)]
    if not drawn:
        return [point.spec for point in points_of(spec)], []
    samples = spec.samples or 1
    fields, listed = list(spec.space), []
    for number in range(samples):
        values = [_values(axis, number, samples) for axis in spec.space.values()]
        listed += [dict(zip(fields, chosen, strict=True)) for chosen in itertools.product(*values)]
    stand_in = spec.model_copy(update={"space": {}, "points": [*listed, *spec.points]})
    return [point.spec for point in points_of(stand_in)], drawn


def _values(axis: Axis, number: int, samples: int) -> Sequence[Any]:
    place = (number + 0.5) / samples
    match axis:
        case Grid():
            return axis.values
        case Choice():
            return [axis.values[number % len(axis.values)]]
        case LogUniform():
            value = axis.low * (axis.high / axis.low) ** place
        case Uniform():
            value = axis.low + (axis.high - axis.low) * place
    return [round(value / axis.step) * axis.step if axis.step else value]
