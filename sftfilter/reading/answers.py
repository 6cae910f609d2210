"""Small files read at once: the examples and questions that a scorer is trained, fitted or queried with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sftfilter.config import stable_hash
from sftfilter.errors import DataError
from sftfilter.reading.budget import NAMED, refusal
from sftfilter.reading.rows import Reader, Row
from sftfilter.reading.source import FileSource
from sftfilter.reading.units import found, plan


def content_hash(path: str) -> str:
    """Changes with the contents of the file or files, not with their names.

    Raises:
        DataError: there is no such file.
    """
    return stable_hash([file.stamp for file in found(FileSource(path=path)).files])


def read_answers(path: str, ratings: Sequence[str] = ()) -> list[Row]:
    """Prompts with answers, and with the numbers or flags in the named columns.

    Raises:
        DataError: a row cannot be used or is doubled, or there is none.
    """
    return list(_all(path, Reader(FileSource(path=path), answers=True, ratings=ratings)))


def read_questions(path: str) -> list[Row]:
    """Prompts; a question may be asked twice.

    Raises:
        DataError: a row cannot be used, or there is none.
    """
    return list(_all(path, Reader(FileSource(path=path), answers=False)))


def _all(path: str, reader: Reader) -> Iterator[Row]:
    bad = []
    first: dict[tuple[str, str], int] = {}
    rows = 0
    for unit in (unit for chunk in plan(reader.source, found(reader.source).files) for unit in chunk):
        for row in reader.rows(unit):
            if not isinstance(row, Row):
                bad.append(row)
                continue
            if row.completion is not None and (row.prompt_id, row.completion) in first:
                earlier = first[row.prompt_id, row.completion]
                raise DataError(f"{row.file}, row {row.number}: duplicate of row {earlier}; remove one of them")
            first[row.prompt_id, row.completion or ""] = row.number
            rows += 1
            yield row
    if bad:
        raise DataError(refusal(bad[:NAMED], {"read": reader.tally.read, "quarantined": len(bad)}, "0"))
    if not rows:
        raise DataError(f"{path}: no rows")
