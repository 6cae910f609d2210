"""Which rows a page holds: all of them, or a fixed sample in which every kind, grade, flag and decision is represented."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.tables import Table, table_of

MOST = 4000
"""Rows that a page holds at most: it opens at once, whatever the run's size."""
CHARACTERS = 8_000_000
"""Of prompts and answers that a page holds, about; longer rows make for fewer of them."""
LEAST = 20
"""Rows of every label that are taken before any other, where a page has room for them."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """Rows of a page, in the run's order.

    Attributes:
        of: how many the run has.
        least: how many of every label are held, or all of it where there are fewer.
    """

    rows: Sequence[Row]
    of: int
    least: int

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return len(self.rows) == self.of


def sample(rows: Sequence[Row], labels: Callable[[Row], Iterator[Hashable]]) -> Sample:
    """The rows that a page holds; the same rows give the same sample, on any machine and in any order.

    Rows are gone through in the order of a hash of their prompt's id: first those that a label is short of, then others
    until the page is full.

    Args:
        labels: what a row stands for.
    """
    mean = sum(map(_length, rows)) / max(len(rows), 1)
    most = min(MOST, max(round(CHARACTERS / max(mean, 1.0)), 1))
    if len(rows) <= most:
        return Sample(rows, len(rows), 0)
    numbers: dict[Hashable, int] = {}
    marked = [[numbers.setdefault(label, len(numbers)) for label in labels(row)] for row in rows]
    least = max(1, min(LEAST, most // (2 * max(len(numbers), 1))))
    order = sorted(range(len(rows)), key=lambda place: (_hash(rows[place]), place))
    held, counted = set[int](), Counter[int]()
    for place in order:
        if any(counted[number] < least for number in marked[place]):
            held.add(place)
            counted.update(marked[place])
    for place in order:
        if len(held) >= most:
            break
        held.add(place)
    return Sample([rows[place] for place in sorted(held)], len(rows), least)


def training_labels(thresholds: Mapping[str, Any]) -> Callable[[Row], Iterator[Hashable]]:
    """A training row's kind, source, grades, flags, and what every arm does with it by kind.

    Args:
        thresholds: of the scorers that have one.
    """

    def labels(row: Row) -> Iterator[Hashable]:
        kind = row.get("kind")
        yield "kind", kind
        yield "source", row.get("source")
        yield from (("grade", teacher, grade) for teacher, grade in f.part(row, "grades").items())
        for scorer, score in f.part(row, "scores").items():
            if score is None or (cut := thresholds.get(scorer)) is None:
                yield "scored", scorer, score is not None
            else:
                yield "flagged", scorer, score >= cut
        yield from (("decision", kind, arm, action) for arm, action in f.part(row, "decisions").items())

    return labels


def heldout_labels(row: Row) -> Iterator[Hashable]:
    """A held-out prompt's group, and every student's grade on it."""
    yield "group", row.get("group")
    yield from (("grade", name, f.part(answer).get("grade")) for name, answer in f.part(row, "answers").items())


def held_table(found: Sample, rows: Sequence[Row]) -> Table | None:
    """Of each kind and decision: rows of the run and rows on the page; None where the page has all."""
    if found.whole:
        return None
    run, page = (_counted(one) for one in (rows, found.rows))
    lines = [[what, f.count(run[what]), f.count(page[what])] for what in run]
    return table_of("Rows of the run and of this page", ["rows", "in the run", "on this page"], lines, (1, 2))


def _counted(rows: Sequence[Row]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        found[f"kind {row.get('kind') or f.MISSING}"] += 1
        found.update({f"decision in some arm: {action or 'none'}" for action in f.part(row, "decisions").values()})
    return Counter(dict(sorted(found.items(), key=lambda one: (not one[0].startswith("kind"), one[0]))))


def _hash(row: Row) -> bytes:
    return hashlib.blake2b(str(row.get("prompt_id")).encode("utf-8", "replace"), digest_size=8).digest()


def _length(row: Row) -> int:
    answers = f.part(row, "answers").values()
    texts = (f.part(answer).get("answer") if isinstance(answer, Mapping) else answer for answer in answers)
    return sum(len(str(text)) for text in (row.get("prompt"), *texts) if text is not None)
