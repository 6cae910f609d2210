"""Rows of the files on this machine, counted as a run would read them; of very large input the beginning, scaled up."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sftfilter.errors import SpecError

if TYPE_CHECKING:
    from sftfilter.reading.source import FileSource

CHARS_OF_A_TOKEN = 4.0
"""Where nothing else is stated; about right for English text."""
_CHUNKS = 4
"""Parts that are read of each source."""


@dataclass(frozen=True)
class Reading:
    """How much may be read to count rows.

    Attributes:
        chunk: bytes of a part, of which four are read of each source.
        seconds: for all sources together; None: as long as it takes.
    """

    chunk: int = 2**24
    seconds: float | None = None


@dataclass(frozen=True)
class Rows:
    """Rows of one source.

    Attributes:
        kinds: rows by their prompt's kind.
        prompt_chars, answer_chars: of a row, on average.
        exact: whether all of it was read.
    """

    count: int
    kinds: Mapping[str, int] = field(default_factory=dict)
    prompt_chars: float = 0.0
    answer_chars: float = 0.0
    exact: bool = True


class Counts:
    """Looks sources up, each once.

    Args:
        stated: what a source is called (`prompts`, a teacher, a student) -> its rows, for those that are not here yet.
        tokens: of such a source -> of a row, of a prompt or of prompt and answer together.
    """

    def __init__(
        self, stated: Mapping[str, int], reading: Reading | None = None, tokens: Mapping[str, int] | None = None
    ) -> None:
        self.stated, self.reading, self.tokens = stated, reading or Reading(), tokens or {}
        self._began = time.monotonic()
        self.asked: set[str] = set()
        self.no_length: list[str] = []
        self._known: dict[str, Rows] = {}

    def rows(self, name: str, source: FileSource, *, answers: bool) -> Rows:
        """Rows of a source: prompts, each once, or answers.

        Raises:
            SpecError: it does not lie on this machine, and was not stated.
            DataError: it cannot be read.
        """
        self.asked.add(name)
        key = f"{answers} {source.model_dump_json()}"
        if key not in self._known:
            self._known[key] = self._read(name, source, answers)
        rows = self._known[key]
        if name in self.tokens:
            chars = self.tokens[name] * CHARS_OF_A_TOKEN
            rows = replace(rows, prompt_chars=0.0 if answers else chars, answer_chars=chars if answers else 0.0)
        if name not in self.stated:
            return rows
        if not rows.count and not rows.prompt_chars + rows.answer_chars:
            self.no_length.append(name)
        factor = self.stated[name] / rows.count if rows.count else 0.0
        kinds = {kind: round(count * factor) for kind, count in rows.kinds.items()}
        return Rows(self.stated[name], kinds, rows.prompt_chars, rows.answer_chars, exact=True)

    def check_used(self) -> None:
        """Raise SpecError when rows were stated of something that the spec does not have."""
        from sftfilter.config import did_you_mean

        for option, name in [*(("rows", name) for name in self.stated), *(("tokens", name) for name in self.tokens)]:
            if name not in self.asked:
                hint = did_you_mean(name, self.asked) or f"; there are: {', '.join(sorted(self.asked)) or 'none'}"
                raise SpecError(f"--{option} {name}: the spec reads no rows of that name{hint}")

    def _read(self, name: str, source: FileSource, answers: bool) -> Rows:
        from sftfilter.reading.preview import local_paths
        from sftfilter.reading.rows import Reader, Row
        from sftfilter.reading.units import found, is_dataset, plan

        if local_paths(source) != source.paths or any(is_dataset(source, path) for path in source.paths):
            if name in self.stated:
                return Rows(0)
            raise SpecError(
                f"{name}: {source.paths[0]} is not a file on this machine that can be counted; say how many rows it has: "
                f"--rows {name}=NUMBER"
            )
        chunks = plan(source, found(source).files, self.reading.chunk)
        reader = Reader(source, answers=answers)
        seen: set[str] = set()
        kinds: Counter[str] = Counter()
        count, asked, answered = 0, 0, 0
        for unit in (unit for chunk in chunks[:_CHUNKS] for unit in chunk):
            for row in reader.rows(unit):
                self._check_time(name)
                if not isinstance(row, Row) or (not answers and row.prompt_id in seen):
                    continue
                seen.add(row.prompt_id)
                count += 1
                kinds[row.kind or ""] += 1
                answered += len(row.completion or "")
                asked += row.size - len(row.completion or "")
        if not count:
            return Rows(0)
        scale = max(1.0, len(chunks) / _CHUNKS)
        told = {kind: round(rows * scale) for kind, rows in kinds.items()}
        return Rows(math.ceil(count * scale), told, asked / count, answered / count, exact=len(chunks) <= _CHUNKS)

    def _check_time(self, name: str) -> None:
        seconds = self.reading.seconds
        if seconds is not None and time.monotonic() - self._began > seconds:
            raise SpecError(f"{name}: its rows take longer than {seconds:g} s to count; `sftfilter plan` counts them")
