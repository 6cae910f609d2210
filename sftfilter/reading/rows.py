"""From records to rows with ids, the same way for prompts, rollouts and teachers' answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sftfilter.reading.formats import Broken, Raw
from sftfilter.reading.shapes import (
    Layout,
    conversation,
    label_of,
    layout,
    number_of,
    plain,
    sample_of,
    shape_of,
)
from sftfilter.reading.source import FileSource
from sftfilter.reading.turns import RowError
from sftfilter.reading.units import Unit, open_unit
from sftfilter.schema import Message, prompt_id


@dataclass(frozen=True, slots=True)
class Row:
    """A usable row.

    Attributes:
        number: of the row in its file, from 1.
        source: what the row says of where it comes from, or else the file's name.
        source_id: what the file calls the row.
        ratings: (name, number) pairs; None where the row has none.
    """

    number: int
    file: str
    prompt_id: str
    messages: list[Message]
    completion: str | None
    source: str
    kind: str | None
    source_id: str | None
    sample: int
    teacher: str | None
    ratings: list[tuple[str, float]] | None

    @property
    def size(self) -> int:
        """Characters of the conversation."""
        return len(self.completion or "") + sum(len(m["content"]) for m in self.messages)


@dataclass
class Tally:
    """What became of the rows that were read: read = usable + quarantined + filtered."""

    read: int = 0
    quarantined: int = 0
    filtered: int = 0
    layouts: dict[str, str] = field(default_factory=dict)
    teachers: Counter[str] = field(default_factory=Counter)
    rated: Counter[str] = field(default_factory=Counter)
    filtered_values: Counter[str] = field(default_factory=Counter)


class Reader:
    """Reads units, and counts.

    Args:
        answers: completions are wanted too, not just prompts.
        ratings: columns with numbers or flags to keep.
    """

    def __init__(self, source: FileSource, *, answers: bool, ratings: Sequence[str] = ()) -> None:
        self.source = source
        self.answers = answers
        self.ratings = list(ratings)
        self.where = {k: {plain(v) for v in (vs if isinstance(vs, list) else [vs])} for k, vs in source.where.items()}
        self.tally = Tally()
        self.others: dict[tuple[str, ...], Layout] = {}

    def rows(self, unit: Unit) -> Iterator[Row | dict[str, Any]]:
        """Rows, and quarantined ones as records of that table."""
        usual, raws = open_unit(self.source, unit, [*self.where, *self.ratings], answers=self.answers)
        self.tally.layouts[unit.file.name] = usual.told()
        for raw in raws:
            self.tally.read += 1
            try:
                record = _mapping(raw)
                if self._filtered(record):
                    self.tally.filtered += 1
                    continue
                row = self._row(unit, self._layout(usual, record, unit), raw.number, record)
            except RowError as error:
                self.tally.quarantined += 1
                yield quarantined(unit.file.shown, raw, error)
                continue
            if row.teacher is not None:
                self.tally.teachers[row.teacher] += 1
            yield row

    def _filtered(self, record: Mapping[str, Any]) -> bool:
        for column, wanted in self.where.items():
            value = plain(record.get(column))
            if value not in wanted:
                if len(self.tally.filtered_values) < 100:
                    self.tally.filtered_values[f"{column}: {value[:40]}"] += 1
                return True
        return False

    def _layout(self, usual: Layout, record: Mapping[str, Any], unit: Unit) -> Layout:
        """The file's layout, or another one for a record that is of another shape."""
        if usual.telling in record or self.source.shape:
            return usual
        key = (unit.file.name, *record)
        if key not in self.others:
            self.others[key] = usual
            if shape_of(self.source, key[1:]):
                self.others[key] = layout(self.source, key[1:], unit.file.shown, answers=False)
                self.tally.layouts[unit.file.name] += f", {self.others[key].told()}"
        return self.others[key]

    def _row(self, unit: Unit, told: Layout, number: int, record: Mapping[str, Any]) -> Row:
        messages, completion = conversation(record, told, answers=self.answers)
        column = told.column
        ratings = [(name, value) for name in self.ratings if (value := number_of(record, name)) is not None]
        self.tally.rated.update(name for name, _ in ratings)
        return Row(
            number=number,
            file=unit.file.shown,
            prompt_id=prompt_id(messages),
            messages=messages,
            completion=completion,
            source=label_of(record, column.get("source")) or unit.file.name,
            kind=label_of(record, column.get("kind")),
            source_id=label_of(record, column.get("id")),
            sample=sample_of(record, column.get("sample")),
            teacher=label_of(record, column.get("teacher")),
            ratings=ratings or None,
        )


def _mapping(raw: Raw) -> Mapping[str, Any]:
    if isinstance(raw.record, Broken):
        raise RowError("line", raw.record.reason)
    if not isinstance(raw.record, Mapping):
        raise RowError("line", f"expected a JSON object, found {type(raw.record).__name__}")
    return raw.record


def quarantined(file: str, raw: Raw, error: RowError) -> dict[str, Any]:
    """A row of the quarantine table."""
    text = raw.text[:2000].decode("utf-8", "replace") if raw.text is not None else _shown(raw.record)
    entry = {
        "file": file,
        "row": raw.number,
        "field": error.field,
        "reason": error.reason,
        "raw": text[:500].rstrip("\n"),
    }
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in entry.items()}


def _shown(record: Any) -> str:
    return json.dumps(record, default=str, ensure_ascii=False) if not isinstance(record, Broken) else ""
