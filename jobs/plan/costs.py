"""What a stage costs: measured in an earlier run, or stated; every number says where it comes from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from jobs.plan.counting import CHARS_OF_A_TOKEN
from jobs.plan.hardware import MEASURED, Hardware
from sftfilter.config import Settings
from sftfilter.errors import SpecError

Seconds = Annotated[float, Field(ge=0)]


class Costs(Settings):
    """Seconds on one worker, and what bounds many of them. A worker is whatever was measured: a GPU, or a machine.

    A file for `sftfilter plan --costs` holds any of these keys. Seconds that are null are not known: what they are of is
    left out of every sum, and the plan says so.
    """

    device: Annotated[Literal["GPU", "core"], Field(description="what device hours are counted in")] = "core"
    devices: Annotated[int, Field(gt=0, description="of them in one worker")] = 1
    rollout_s: Annotated[dict[str, Seconds], Field(description="teacher, or `any` -> an answer to a prompt")] = Field(
        default={}
    )
    score_s: Annotated[dict[str, Seconds], Field(description="scorer's name or kind, or `any` -> a row")] = Field(
        default={}
    )
    score_setup_s: Annotated[dict[str, Seconds], Field(description="scorer's name or kind, or `any` -> loading")] = (
        Field(default={})
    )
    train_row_s: Annotated[
        dict[str, Seconds],
        Field(description="`teacher`, `student`, or `any` -> a row, each time that training passes over it"),
    ] = Field(default={})
    train_flops_s: Annotated[
        float | None, Field(gt=0, description="FLOP/s reached in training, for students without a `train_row_s`")
    ] = None
    generate_flops_s: Annotated[
        float | None, Field(gt=0, description="FLOP/s reached in answering, without a `rollout_s` or `answer_s`")
    ] = None
    device_hour_price: Annotated[
        float | None, Field(ge=0, description="of one device, an hour, in any currency; the plan then has money")
    ] = None
    train_setup_s: Annotated[Seconds, Field(description="starting a group of training workers")] = 0.0
    answer_s: Annotated[Seconds | None, Field(description="a student's answer to an evaluation prompt")] = None
    model_s: Annotated[Seconds, Field(description="a model that is asked: loading, held-out loss")] = 0.0
    serve_setup_s: Annotated[Seconds, Field(description="starting the endpoint")] = 0.0
    decide_s: Annotated[Seconds, Field(description="decisions and training plan of a student")] = 0.0
    start_s: Annotated[Seconds, Field(description="starting Python and Ray")] = 0.0
    head_s: Annotated[Seconds, Field(description="stages on the head alone: prompts, guards, outcome, report")] = 0.0
    checkpoint_gib: Annotated[float, Field(ge=0, description="that a student writes to the shared folder")] = 0.0
    storage_gib_s: Annotated[float, Field(gt=0, description="that the shared folder takes in a second")] = 1.0
    head_answers_s: Annotated[
        float, Field(gt=0, description="answers a second that pass through the head: HTTP, grading, writing")
    ] = 200.0
    student_workers: Annotated[int, Field(gt=0, description="workers that one student is spread over at most")] = 8
    student_keeps: Annotated[
        float, Field(ge=0.5, le=1, description="share of a worker's speed left at each doubling of a student's workers")
    ] = 0.85
    chars_per_token: Annotated[float, Field(gt=0)] = CHARS_OF_A_TOKEN

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        """A single number stands for `any`."""
        if isinstance(data, dict):
            spread = ("rollout_s", "score_s", "score_setup_s", "train_row_s")
            return {k: {"any": v} if k in spread and isinstance(v, int | float) else v for k, v in data.items()}
        return data


@dataclass(frozen=True)
class Priced:
    """Costs, and where they come from.

    Attributes:
        told: field of the costs -> its source; a field that is not there has its default, a guess.
        notes: what a person should know of them.
    """

    costs: Costs
    told: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def assumptions(self, fields: Collection[str], names: Collection[str]) -> list[tuple[str, str, str]]:
        """(field, value, source) of every number that a plan depends on, the guesses last.

        Args:
            fields: those that it depends on.
            names: by which it looks costs up.
        """
        values = {name: value for name, value in self.costs.model_dump(mode="json").items() if name in fields}
        known = [(name, _short(value, names), self.told[name]) for name, value in values.items() if name in self.told]
        others = {name: value for name, value in values.items() if name not in self.told}
        guessed = [(n, _short(v, names), "guess: the default") for n, v in others.items() if v not in ({}, None, 0.0)]
        zero = ", ".join(name for name, value in others.items() if value == 0.0)
        rows = [row for row in [*known, *guessed] if row[1]]
        return [*rows, *([(zero, "0", "not known, taken for nothing")] if zero else [])]


def priced(run: Path | None, file: Path | None, stated: Sequence[str], hardware: Hardware | None = None) -> Priced:
    """Costs of an earlier run, what named hardware, a file and the command line say instead, the last over the others.

    Raises:
        SpecError: a key or a value is wrong.
        DataError: the run cannot be read.
    """
    from jobs.plan.measured import measure

    data, told, notes = measure(run) if run else ({}, {}, [])
    if hardware:
        data, told = ({k: v for k, v in some.items() if k not in MEASURED} for some in (data, told))
        given, sources = hardware.costs()
        data, told = data | given, told | sources
    if file:
        given = _read(file)
        data, told = _over(data, given, told, str(file))
    if stated:
        from jobs.spec import override

        given = {}
        for change in stated:
            override(given, change)
        data, told = _over(data, given, told, "stated: --cost")
    try:
        return Priced(Costs.model_validate(data), told, notes)
    except ValidationError as error:
        from jobs.spec_errors import flat

        where = "--cost" if stated else str(file)
        raise SpecError("\n".join(f"{where}: {line.removeprefix(': ')}" for line in flat(error))) from error


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(file.read_text())
        if not isinstance(data, dict):
            raise SpecError(f"{file}: expected keys and values, such as `answer_s: 0.05`")
        Costs.model_validate(data)
    except OSError as error:
        raise SpecError(
            f"{file}: {error.strerror}; name a file with any of: {', '.join(Costs.model_fields)}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: not valid YAML: {error}") from error
    except ValidationError as error:
        from jobs.spec_errors import flat

        raise SpecError("\n".join(f"{file}: {line.removeprefix(': ')}" for line in flat(error))) from error
    return data


def _over(
    data: Mapping[str, Any], given: Mapping[str, Any], told: Mapping[str, str], source: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Given values over those that are there. Of costs by name only the given names are replaced, unless `any` is one."""
    merged = dict(data)
    sources = dict(told)
    for key, value in given.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and "any" not in value:
            merged[key] = below | value
            sources[key] = f"{', '.join(value)} {source}; else {told.get(key, '')}"
        else:
            merged[key] = value
            sources[key] = source
    return merged, sources


def _short(value: Any, used: Collection[str]) -> str:
    if isinstance(value, dict):
        shown = {name: one for name, one in value.items() if name in used}
        return ", ".join(f"{name} {_short(one, used)}" for name, one in shown.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
