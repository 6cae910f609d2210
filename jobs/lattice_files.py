"""Cells of a lattice that cannot be made: no such base, or prompts that a teacher's files never answered. Seen before the start."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.kinds.lattice import Lattice
from jobs.lattice_cells import cell_name, cells_of, parts_of
from sftfilter.reading.preview import local_paths
from sftfilter.reading.rows import Reader, Row
from sftfilter.reading.source import FileSource
from sftfilter.reading.units import found, plan
from sftfilter.rollout_file import RolloutFile


@dataclass(frozen=True)
class Missing:
    """Cells that cannot be made.

    Attributes:
        at: the field of the spec that is in the way.
        cells: their names.
        command: what would fill them.
    """

    at: tuple[str, str]
    why: str
    cells: Sequence[str]
    remedy: str
    command: str

    def __str__(self) -> str:
        cells = f"cell{'s' * (len(self.cells) != 1)} {', '.join(self.cells)} cannot be made"
        return f"{self.why}, so {cells}. {self.remedy}: {self.command}"


def impossible(spec: Lattice, readable: Callable[[FileSource], bool] = lambda _: True) -> list[Missing]:
    """Every group of cells that cannot be made, as far as spec and files tell.

    Args:
        readable: whether a source is looked at.
    """
    return [*_without_base(spec), *_unanswered(spec, readable)]


def _without_base(spec: Lattice) -> Iterator[Missing]:
    """Bases that are folders and not there; teachers that are tuned from one are lost with it."""
    for name, model in spec.bases.items():
        folder = Path(model).expanduser()
        if not (folder.is_absolute() or model.startswith(".")) or folder.is_dir():
            continue
        lost = [t for t, one in spec.teachers.items() if one.kind == "tuned" and spec.home(t) == name]
        cells = [cell_name(cell) for cell in cells_of(spec) if cell.base == name or cell.teacher in lost]
        if cells:
            command = shlex.join(["sftfilter", "run", "jobs/specs/train.yaml", "--set", f"name={name}"])
            remedy = "Name another folder, or train the model and name the checkpoint that this writes"
            yield Missing(("bases", name), f"base {name}: there is no folder {model}", cells, remedy, command)


def _unanswered(spec: Lattice, readable: Callable[[FileSource], bool]) -> Iterator[Missing]:
    """Pairs of teacher and prompts without a single answer. Files are read up to the first answer."""
    known: dict[str, set[str]] = {}
    for prompts, teacher in _pairs(spec):
        source, given = spec.prompts[prompts], spec.teachers[teacher]
        if not isinstance(given, RolloutFile) or not readable(source) or not readable(given):
            continue
        if prompts not in known:
            known[prompts] = {row.prompt_id for row in _rows(source, answers=False)}
        if not any(row.prompt_id in known[prompts] for row in _rows(given, answers=True)):
            cells = [cell_name(c) for c in cells_of(spec) if (c.prompts, c.teacher) == (prompts, teacher)]
            why = f"teacher {teacher}: its files answer none of prompts '{prompts}'"
            remedy = "Have them answered by the model behind it, and add the file that this writes to its `path`"
            yield Missing(("teachers", teacher), why, cells, remedy, _command(spec, teacher, prompts))


def here(source: FileSource) -> bool:
    """Whether all of a source lies on this machine, so that a look at it costs little."""
    return local_paths(source) == source.paths


def _pairs(spec: Lattice) -> list[tuple[str, str]]:
    """(prompts, teacher), each once, of every part."""
    parts = parts_of(spec)
    return list(dict.fromkeys((part.prompts, teacher) for part in parts for teacher in part.spec.teachers))


def _rows(source: FileSource, *, answers: bool) -> Iterator[Row]:
    reader = Reader(source, answers=answers)
    for chunk in plan(source, found(source).files):
        for unit in chunk:
            yield from (row for row in reader.rows(unit) if isinstance(row, Row))


def _command(spec: Lattice, teacher: str, prompts: str) -> str:
    """How to have the prompts answered; the model behind a file is not known here."""
    source = spec.prompts[prompts].model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    asked = {
        "name": f"{spec.name}-{teacher}-{prompts}",
        "prompts": json.dumps(source | {"kind": spec.prompts[prompts].kind}, ensure_ascii=False),
        "teachers": json.dumps({teacher: {"kind": "model", "model": "MODEL"}}, ensure_ascii=False),
    }
    flags = [word for key, value in asked.items() for word in ("--set", f"{key}={value}")]
    return shlex.join(["sftfilter", "run", "jobs/specs/generate.yaml", *flags])
