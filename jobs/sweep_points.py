"""Points of a sweep: its space drawn by Ray Tune's own samplers, every point checked as a whole experiment."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.kinds.experiment import Experiment
from jobs.kinds.sweep import Axis, Grid, Sweep
from sftfilter.config import stable_hash
from sftfilter.errors import SpecError


@dataclass(frozen=True)
class Point:
    """The experiment at one place of the space."""

    label: str
    settings: Mapping[str, Any]
    spec: Experiment


def points_of(spec: Sweep) -> list[Point]:
    """Every distinct point, the listed ones last.

    What is drawn depends on the seed, the field and the number of the draw alone: more samples, other values of a grid or
    another field leave the draws as they were, so that a sweep can grow without a student being trained anew.

    Raises:
        SpecError: points are not valid; names each with its settings.
    """
    fields = list(spec.space)
    found: list[dict[str, Any]] = []
    if fields:
        for number in range(spec.samples or 1):
            values = [_values(spec.space[field], field, spec.seed, number) for field in fields]
            found += [dict(zip(fields, chosen, strict=True)) for chosen in itertools.product(*values)]
    distinct = {stable_hash(settings): settings for settings in [*found, *spec.points]}
    names = short_names({field for settings in distinct.values() for field in settings})
    points, wrong = [], []
    for settings in distinct.values():
        label = ", ".join(f"{names[field]}={value_text(value)}" for field, value in settings.items())
        try:
            points.append(Point(label, settings, spec.at(settings, f"point {label}")))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise SpecError("\n".join(wrong))
    return points


def _values(axis: Axis, field: str, seed: int, number: int) -> list[Any]:
    """All values of a grid, or the one that this sample draws."""
    if isinstance(axis, Grid):
        return axis.values
    import numpy as np

    generator = np.random.default_rng([seed, number, int(stable_hash(field), 16)])
    return [_domain(axis).sample(random_state=generator)]


def _domain(axis: Any) -> Any:
    from ray import tune

    match axis.kind:
        case "choice":
            return tune.choice(axis.values)
        case "uniform":
            step = axis.step
            return tune.quniform(axis.low, axis.high, step) if step else tune.uniform(axis.low, axis.high)
        case _:
            step = axis.step
            return tune.qloguniform(axis.low, axis.high, step) if step else tune.loguniform(axis.low, axis.high)


def short_names(fields: Collection[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Field -> the shortest end of it that no other field shares and that is not taken."""

    def ends(field: str) -> list[str]:
        parts = field.split(".")
        return [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]

    used = Counter([*taken, *(end for field in fields for end in ends(field))])
    return {field: next((end for end in ends(field) if used[end] == 1), f"experiment.{field}") for field in fields}


def value_text(value: Any) -> str:
    """A value as a label shows it."""
    if isinstance(value, Mapping) and "kind" in value:
        rest = [value_text(inner) for key, inner in value.items() if key != "kind"]
        return " ".join([str(value["kind"]), *rest])
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
