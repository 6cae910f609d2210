"""A look at the beginning of the files on this machine: what is wrong with a source that no run is needed to find out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from sftfilter.reading.places import find
from sftfilter.reading.source import FileSource
from sftfilter.reading.units import Unit, format_of, is_dataset, open_unit

FILES, ROWS = 5, 100
"""Of each source so many files are looked at, and of a text file so many rows."""
_WHOLE = 2**24
"""Bytes. A JSON document is parsed as a whole; a larger one is not looked at."""


def local_paths(source: FileSource) -> list[str]:
    """The paths that can be looked at from here: no buckets, and no names of datasets on the hub."""
    here = [path for path in source.paths if "://" not in path]
    return [path for path in here if not is_dataset(source, path) or Path(path).is_absolute()]


def check_there(path: str) -> None:
    """Raise DataError when a local path names no file or folder, or its pattern matches none."""
    if not Path(path).exists():
        find([path], stamps=False)


def look(source: FileSource, columns: Sequence[str], *, answers: bool) -> list[str]:
    """Open the first files as a run would.

    Args:
        columns: columns that are wanted beside the conversation.
        answers: completions are wanted too.

    Returns:
        Those of the columns that no row looked at has, where later rows may still have them: JSON names them row by row.

    Raises:
        DataError: a file cannot be read so, whatever its further rows hold.
    """
    wanted = [*source.where, *columns]
    unseen = set(wanted)
    looked = False
    for file in find([path for path in local_paths(source) if not is_dataset(source, path)], stamps=False)[:FILES]:
        told = format_of(source, file)
        if told == "json" and file.size > _WHOLE:
            return []
        _, raws = open_unit(source, Unit(file, told), wanted, answers=answers)
        if told not in ("jsonl", "json"):
            return []  # it has a header, which was held against what is wanted
        looked = True
        for raw in islice(raws, ROWS):
            unseen -= set(raw.record) if isinstance(raw.record, Mapping) else set()
    return [column for column in dict.fromkeys(wanted) if column in unseen] if looked else []
