"""What is wrong with a valid spec that can be seen before anything runs: its files, and the columns that it names in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.kinds.experiment import Experiment
from jobs.kinds.job import JobSpec
from jobs.kinds.lattice import Lattice
from jobs.kinds.score import RolloutJob
from jobs.lattice_files import here, impossible
from jobs.named_files import Location, sources_and_paths
from jobs.spec import place_in
from sftfilter.config import Holds, did_you_mean
from sftfilter.errors import DataError
from sftfilter.reading.preview import ROWS, check_there, local_paths, look
from sftfilter.reading.source import FileSource
from sftfilter.rollout_file import RolloutFile
from sftfilter.scorers import Column


@dataclass(frozen=True)
class Found:
    """Something about a spec.

    Attributes:
        at: the field's keys.
        certain: no run can do with it.
    """

    at: Location
    text: str
    certain: bool = True


def foresee(file: str, spec: JobSpec) -> tuple[list[str], list[str]]:
    """What will stop a run, and what may, each as `file:line: field: message`.

    A path that the spec writes out from the root may lie on the cluster only, so it is no more than a note that it is
    not here.
    """
    stops, notes = [], []
    for found in [*_files(spec), *_ratings(spec), *_cells(spec)]:
        line, written = place_in(file, found.at)
        elsewhere = written is not None and written.startswith(("/", "~"))
        text = f"{file}:{line}: {'.'.join(map(str, found.at))}: {found.text}"
        (stops if found.certain and not elsewhere else notes).append(text)
    return stops, notes


def refuse_unusable(file: str, spec: JobSpec) -> None:
    """Stop before a run starts what would stop it later.

    Raises:
        DataError: files on this machine that the spec names are absent, or do not hold what it wants of them.
    """
    stops, _ = foresee(file, spec)
    if stops:
        raise DataError("\n".join(stops))


def _files(spec: JobSpec) -> Iterator[Found]:
    for at, value, holds in sources_and_paths(spec, ()):
        if isinstance(value, FileSource):
            answers = isinstance(value, RolloutFile)
            yield from _source(
                at, value, Holds(answers, tuple(value.ratings) if isinstance(value, RolloutFile) else ())
            )
        elif "://" in value:
            continue
        elif not Path(value).exists():
            yield Found(at, f"not found: {value}")
        elif holds:
            yield from _contents(at, FileSource(path=value), holds)


def _source(at: Location, source: FileSource, holds: Holds) -> Iterator[Found]:
    absent = False
    for path in local_paths(source):
        try:
            check_there(path)
        except DataError as error:
            absent = True
            place = ("path",) if isinstance(source.path, str) else ("path", source.path.index(path))
            yield Found((*at, *place), str(error))
    if not absent:
        yield from _contents(at, source, holds)


def _contents(at: Location, source: FileSource, holds: Holds) -> Iterator[Found]:
    try:
        unseen = look(source, holds.columns, answers=holds.answers)
    except DataError as error:
        yield Found(at, str(error))
        return
    for column in unseen:
        named = [key for key in ("where", "ratings") if column in getattr(source, key, ())][:1]
        yield Found((*at, *named), f"none of the first {ROWS} rows has a column '{column}'", certain=False)


def _ratings(spec: JobSpec) -> Iterator[Found]:
    """Scorers of kind `column` on teachers that do not keep the column which they name."""
    given: Mapping[str, Any]
    pairs: Sequence[tuple[str, str]]
    people: str | None = None
    if isinstance(spec, RolloutJob):
        given, scorers = spec.rollouts, spec.scorers
        pairs = [(teacher, name) for name in scorers for teacher in given]
        people = spec.labels.by if spec.labels else None
    elif isinstance(spec, Experiment):
        given, scorers, pairs = spec.teachers, spec.scorers, spec.scored
    else:
        return
    for teacher, name in pairs:
        scorer = scorers[name]
        if not isinstance(scorer, Column) or name == people:  # people need not have labelled every teacher's rows
            continue
        answers = given[teacher]
        listed = answers.ratings if isinstance(answers, RolloutFile) else []
        if scorer.rating not in listed:
            hint = (
                did_you_mean(scorer.rating, listed)
                or f"; it lists: {', '.join(listed) or 'none'}; add the column of its file there"
            )
            yield Found(
                ("scorers", name, "rating"), f"teacher '{teacher}' lists no '{scorer.rating}' in its `ratings`{hint}"
            )


def _cells(spec: JobSpec) -> Iterator[Found]:
    """Cells of a lattice that cannot be made."""
    if not isinstance(spec, Lattice):
        return
    try:
        for missing in impossible(spec, here):
            yield Found(missing.at, str(missing))
    except DataError:
        return  # a file that is not there or cannot be read was named before
