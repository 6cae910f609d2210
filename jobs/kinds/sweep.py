"""Job kind `sweep`: one experiment at many settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, model_validator

from jobs.kinds.experiment import Experiment
from jobs.kinds.trials import SideBySide
from jobs.spec_errors import flat
from sftfilter.config import Settings, did_you_mean, resolve_path, stable_hash
from sftfilter.stopping import StopRule

if TYPE_CHECKING:
    from jobs.console import Stages

FIXED = {
    **dict.fromkeys(sorted(Experiment.aside), "it changes where or how fast a job runs, not what comes of it"),
    **dict.fromkeys(("traits", "capability"), "points are compared, so the same has to be measured at all of them"),
    **dict.fromkeys(("roles", "gates", "kind"), "points are the same arms at other settings"),
}
"""Fields of an experiment that cannot be swept, and why."""


class Grid(Settings):
    """Every value, with every value of the other grids. A plain list is one."""

    kind: Literal["grid"] = "grid"
    values: Annotated[list[Any], Field(min_length=1)]

    def ends(self) -> list[Any]:
        """Values that have to be valid."""
        return self.values


class Choice(Settings):
    """One of the values, drawn anew for every sample."""

    kind: Literal["choice"]
    values: Annotated[list[Any], Field(min_length=1)]

    def ends(self) -> list[Any]:
        """Values that have to be valid."""
        return self.values


class _Between(Settings):
    """Base of the axes that are drawn between two numbers."""

    low: float
    high: float
    step: Annotated[float | None, Field(gt=0, description="round to multiples of it")] = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low: {self.low:g} is not below high, {self.high:g}")
        return self

    def ends(self) -> list[Any]:
        """Values that have to be valid."""
        return [self.low, self.high]


class Uniform(_Between):
    """A number between two, drawn anew for every sample."""

    kind: Literal["uniform"]


class LogUniform(_Between):
    """A number between two, drawn anew for every sample: each order of magnitude is as likely as any other."""

    kind: Literal["loguniform"]
    low: Annotated[float, Field(gt=0)]


def _listed(value: Any) -> Any:
    return {"kind": "grid", "values": value} if isinstance(value, list) else value


Axis = Annotated[
    Annotated[Grid | Choice | Uniform | LogUniform, Field(discriminator="kind")],
    BeforeValidator(_listed, json_schema_input_type=Grid | Choice | Uniform | LogUniform | list[Any]),
]


def _from_file(value: Any, info: ValidationInfo) -> Any:
    """The experiment of another spec file, where a path is given; its errors name that file."""
    if not isinstance(value, str):
        return value
    from jobs.spec import load_experiment  # the module of all kinds, this one among them

    return load_experiment(resolve_path(value, info), (info.context or {}).get("experiment_overrides", ()))


class Sweep(SideBySide):
    """Run one experiment at many settings: what they share is done once, equal students are trained once.

    Every distinct student is a trial of Ray Tune. Rates, differences from each point's own original arm and their
    adjusted p-values come out as one table and a page.
    """

    kind: Literal["sweep"]
    experiment: Annotated[
        Experiment,
        BeforeValidator(_from_file, json_schema_input_type=Experiment | str),
        Field(description="a whole spec of kind experiment, or the path of one"),
    ]
    space: Annotated[
        dict[str, Axis], Field(description="field of the experiment, such as selectors.flagged.at_least -> its values")
    ] = Field(default={})
    points: Annotated[
        list[dict[str, Any]], Field(description="settings to run besides, each a mapping of fields to values")
    ] = Field(default=[])
    samples: Annotated[
        int | None,
        Field(gt=0, description="draws of the random fields; each is combined with every point of the grids"),
    ] = None
    seed: Annotated[int, Field(ge=0, description="of what is drawn; the same seed draws the same")] = 0
    stop: Annotated[
        StopRule | None,
        Field(description="give up students by their own training loss; they get no rate, and the reason is reported"),
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        if not self.space and not self.points:
            raise ValueError(
                "space: name at least one field and its values, such as selectors.flagged.at_least: [1, 2]"
            )
        if "error_budget" in self.model_fields_set:
            raise ValueError("error_budget: it is the experiment's; set experiment.error_budget")
        if self.experiment.asks_exports:
            raise ValueError(
                "experiment: a sweep asks its students after they are trained: leave execution.ask_exports out, and let "
                "training.exports.metric be 'loss'"
            )
        drawn = [field for field, axis in self.space.items() if axis.kind != "grid"]
        if drawn and self.samples is None:
            raise ValueError(f"samples: {drawn[0]} is drawn at random; say how many times")
        if self.samples is not None and not drawn:
            raise ValueError("samples: no field of `space` is drawn at random, so there is nothing to sample")
        return self

    @model_validator(mode="after")
    def _valid_values(self) -> Sweep:
        """Each value beside the others' first ones, so that a wrong one is found at once; all points are checked later."""
        corner = {field: axis.ends()[0] for field, axis in self.space.items()}
        for field, axis in self.space.items():
            for value in axis.ends():
                self.at({**corner, field: value}, f"space.{field}")
        for number, settings in enumerate(self.points):
            self.at(settings, f"points.{number}")
        return self

    def at(self, settings: Mapping[str, Any], where: str) -> Experiment:
        """The experiment with these settings.

        Raises:
            ValueError: a field is not there, or the experiment would not be valid; starts with `where`.
        """
        data = self.experiment.model_dump(mode="json") | {"name": self.name, "results": self.results}
        for field, value in settings.items():
            try:
                _put(data, field, value)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        try:
            return Experiment.model_validate(data)
        except ValidationError as error:
            shown = ", ".join(f"{field}={value}" for field, value in settings.items())
            raise ValueError(f"{where}: with {shown}: {'; '.join(flat(error))}") from None

    @property
    def spec_hash(self) -> str:
        """Hash of everything that can change the outcome."""
        own = self.model_dump(mode="json", exclude={*self.aside, "experiment"})
        return stable_hash([own, self.experiment.spec_hash])

    def size(self) -> int:
        """Points at most; draws that come out alike are run once."""
        grids = math.prod(len(axis.values) for axis in self.space.values() if isinstance(axis, Grid))
        return (grids * (self.samples or 1) if self.space else 0) + len(self.points)

    def summary(self) -> str:
        """Points and what each is."""
        fields = ", ".join(dict.fromkeys([*self.space, *(field for settings in self.points for field in settings)]))
        return f"{self.size()} points over {fields}, each of {self.experiment.summary()} (equal students once)"

    def check_fits(self, have: Mapping[str, float]) -> None:
        """Raise MachineError when there are too few CPUs or GPUs for the training workers of a single student."""
        self.experiment.check_fits(have)

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """The whole sweep; answers results.json."""
        from jobs.sweep import run_sweep

        return run_sweep(self, root, stages, command)

    def page(self, root: Path) -> Path:
        """The report."""
        return root / self.name / "report" / "index.html"


def _put(data: dict[str, Any], field: str, value: Any) -> None:
    """Set a dotted field that is there already."""
    *parents, last = field.split(".")
    reason = FIXED.get((parents or [last])[0])
    if reason:
        raise ValueError(f"{field} cannot be swept: {reason}")
    here: Any = data
    for place, part in enumerate([*parents, last]):
        above = ".".join(parents[:place]) or "the experiment"
        if not isinstance(here, dict):
            raise ValueError(f"{field}: {above} is {here!r} in the experiment and holds no fields; set it there first")
        if part not in here:
            raise ValueError(f"no field '{part}' in {above}{did_you_mean(part, here)}; there are: {', '.join(here)}")
        if place < len(parents):
            here = here[part]
    here[last] = value
