"""The shapes that conversations come in, told by a file's columns: each becomes the turns of a prompt and an answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sftfilter.config import did_you_mean
from sftfilter.errors import DataError
from sftfilter.reading.source import FIELDS, FileSource, Shape
from sftfilter.reading.turns import RowError, blank, encodable, text_of, turns_of, type_name
from sftfilter.schema import Message

_NEEDED: dict[Shape, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
"""Fields that a shape cannot do without, the one that tells it first. Earlier shapes win where a file has several."""

_OTHER_NAMES = {"completion": ("response",)}


@dataclass(frozen=True)
class Layout:
    """How the records of one file are read.

    Attributes:
        shape: which one.
        column: field -> the file's column, for the fields that the file has.
    """

    shape: Shape
    column: Mapping[str, str]

    @property
    def telling(self) -> str:
        """The column by which a record of this layout is known."""
        return self.column[_NEEDED[self.shape][0]]

    def told(self) -> str:
        """For a person: the shape, and the columns that have other names than the fields."""
        renamed = [f"{field} = {column}" for field, column in self.column.items() if field != column]
        return self.shape + (f" ({', '.join(renamed)})" if renamed else "")


def layout(source: FileSource, columns: Sequence[str], file: str, *, answers: bool) -> Layout:
    """Tell the shape of a file by its columns.

    Args:
        answers: completions are wanted too, not just prompts.

    Raises:
        DataError: no shape fits; it names the columns that the file has.
    """
    column = {field: name for field in FIELDS if (name := _column(source, field, columns)) is not None}
    shape = source.shape or shape_of(source, columns)
    if shape is None:
        raise DataError(f"{file}: of no known shape; {_shapes(source, columns, answers)}")
    lacking = [f for f in (_NEEDED[shape] if answers else _NEEDED[shape][:1]) if f not in column]
    if lacking:
        raise DataError(
            f"{file}: shape '{shape}' needs {_names(lacking)}; {_shapes(source, columns, answers, lacking[0])}"
        )
    return Layout(shape, column)


def check_columns(source: FileSource, columns: Sequence[str], file: str, where: str = "") -> None:
    """Every column that `columns` names must be there: a misspelt one would drop what it holds, unsaid.

    Args:
        columns: those that the file has.
        where: which rows were looked at, if not all.

    Raises:
        DataError: one is not.
    """
    for field, name in source.columns.items():
        if name is not None and name not in columns:
            raise DataError(
                f"{file}: `columns` names '{name}' as {field}, and no such column is there{where}"
                f"{did_you_mean(name, columns)}; the columns are {', '.join(columns) or 'none'}"
            )


def shape_of(source: FileSource, columns: Collection[str]) -> Shape | None:
    """The first shape whose telling column is there."""
    return next((s for s, needed in _NEEDED.items() if _column(source, needed[0], columns) is not None), None)


def _column(source: FileSource, field: str, columns: Collection[str]) -> str | None:
    if field in source.columns:
        name = source.columns[field]
        return name if name in columns else None
    return next((name for name in (field, *_OTHER_NAMES.get(field, ())) if name in columns), None)


def _shapes(source: FileSource, columns: Sequence[str], answers: bool, field: str | None = None) -> str:
    needs = "; ".join(f"{s} has {_names(n if answers else n[:1])}" for s, n in _NEEDED.items())
    wanted = source.columns.get(field or "") or field
    hint = did_you_mean(wanted, columns) if wanted else ""
    return (
        f"its columns are {', '.join(columns) or 'none'}{hint}. Shapes: {needs}. "
        "Name your columns in `columns`, such as {prompt: question, completion: answer}, or choose another `shape`."
    )


def _names(fields: Sequence[str]) -> str:
    return " and ".join(f"`{f}`" for f in fields)


def conversation(record: Mapping[str, Any], layout: Layout, *, answers: bool) -> tuple[list[Message], str | None]:
    """The prompt's turns and the answer of a record.

    Raises:
        RowError: there are none, they are empty, or a role is unknown.
    """
    column = layout.column
    answer: str | None = None
    match layout.shape:
        case "messages":
            turns = turns_of(record, column["messages"])
        case "sharegpt":
            turns = turns_of(record, column["conversations"], "from")
        case "alpaca":
            turns, answer = [_user(record, column)], column.get("output")
        case "prompt":
            turns = _prompt(record, column["prompt"])
    if layout.shape != "alpaca":
        answer = column.get("completion")
    completion = _completion(record, answer) if answers and answer and record.get(answer) is not None else None
    if completion is None:
        turns, completion = _split(turns, answers, answer or "completion", record)
    if turns[-1]["role"] != "user":
        raise RowError(layout.telling, "before the answer, the last turn must be the user's")
    if "system" in column and not blank(record.get(column["system"])) and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": text_of(record, column["system"])})
    return turns, completion


def _split(
    turns: list[Message], answers: bool, answer: str, record: Mapping[str, Any]
) -> tuple[list[Message], str | None]:
    """Take the last assistant turn off: it is the answer."""
    if len(turns) > 1 and turns[-1]["role"] == "assistant":
        return turns[:-1], turns[-1]["content"]
    if answers:
        raise RowError(answer, "missing" if record.get(answer) is None else "no answer")
    return turns, None


def _prompt(record: Mapping[str, Any], field: str) -> list[Message]:
    """Text, or turns as TRL's conversational form has them."""
    if isinstance(record.get(field), list):
        return turns_of(record, field)
    return [{"role": "user", "content": text_of(record, field)}]


def _completion(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, list):
        return text_of(record, field)
    turns = turns_of(record, field, roles={"assistant": "assistant"})
    if len(turns) != 1:
        raise RowError(field, f"expected one assistant turn, found {len(turns)}")
    return turns[0]["content"]


def _user(record: Mapping[str, Any], column: Mapping[str, str]) -> Message:
    instruction = text_of(record, column["instruction"])
    given = column.get("input")
    if given and record.get(given) and str(record[given]).strip():
        instruction += "\n\n" + text_of(record, given)
    return {"role": "user", "content": instruction}


def label_of(record: Mapping[str, Any], field: str | None) -> str | None:
    """A short text beside the conversation, such as its source; a number is written out."""
    value = record.get(field) if field else None
    if value is None or isinstance(value, str):
        return value and encodable(value, str(field))
    if isinstance(value, bool | int | float):
        return plain(value)
    raise RowError(str(field), f"expected text, found {type_name(value)}; to leave it out: columns: {{{field}: null}}")


def number_of(record: Mapping[str, Any], field: str) -> float | None:
    """A rating: a number, or 0 and 1 for a flag. None where there is none."""
    value = record.get(field)
    if value is None:
        return None
    if isinstance(value, str):
        if not value or value.isspace():
            return None
        flag = {"true": 1.0, "false": 0.0}.get(value.strip().lower())
        value = value if flag is None else flag
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise RowError(field, f"expected a number or a flag, found {str(value)[:40]!r}") from None
    if not math.isfinite(number):
        raise RowError(field, f"not a finite number: {number}")
    return number


def sample_of(record: Mapping[str, Any], field: str | None) -> int:
    """Which of several samples to the same prompt; 0 where the row does not say."""
    value = record.get(field) if field else None
    if value is None:
        return 0
    text = plain(value)
    if not text.isdecimal() or len(text) > 9:
        raise RowError(
            str(field),
            f"expected a whole number from 0, found {text[:40]!r}; if it is no sample's number: columns: {{{field}: null}}",
        )
    return int(text)


def plain(value: Any) -> str:
    """A value as text, such that 1 and 1.0 are the same and so are `true` in JSON and in CSV."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text.lower() if text.lower() in ("true", "false") else text
