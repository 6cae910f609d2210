"""Job kind `lattice`: the cells between two pipelines, base x prompts x teacher, and a subset swapped bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from jobs.kinds.study import Measuring, check_known
from jobs.kinds.trials import SideBySide
from sftfilter.config import Name, Settings
from sftfilter.interventions import Backfill, Intervention, Swap
from sftfilter.models import BUILTIN
from sftfilter.prompts import PromptSource
from sftfilter.selectors import Selector, check_references
from sftfilter.verdict import Gates

if TYPE_CHECKING:
    from jobs.console import Stages

Mode = Literal["drop", "swap", "converse_drop", "converse_swap", "neutralise"]


class Corner(Settings):
    """One cell: whose base, which prompts, whose answers."""

    base: Name
    prompts: Name
    teacher: Name


class Cells(Settings):
    """Cells that are wanted; what is left out stands for all names."""

    base: Name | list[Name] | None = None
    prompts: Name | list[Name] | None = None
    teacher: Name | list[Name] | None = None

    def hold(self, cell: Corner) -> bool:
        """Whether a cell is among them."""
        return all(name in (wanted := self.names(axis)) or not wanted for axis, name in dict(cell).items())

    def names(self, axis: str) -> list[str]:
        """The names that are wanted along an axis; none for all."""
        given = getattr(self, axis)
        return [given] if isinstance(given, str) else given or []


class Interpolate(Settings):
    """One subset of the original prompts, more and more of it changed, beside as many random prompts at every point.

    `drop`, `swap` and `neutralise` start from the original teacher's rows (dropped; answered by the alternate teacher;
    a fixed answer). `converse_drop` and `converse_swap` start from the alternate's (dropped; answered by the original).
    """

    subset: Annotated[str, Field(description="the selector whose prompts are changed")]
    fractions: Annotated[
        list[Annotated[float, Field(ge=0, le=1)]],
        Field(min_length=1, description="of its prompts; a larger fraction contains the smaller ones"),
    ] = Field(default=[0, 0.25, 0.5, 1])
    modes: Annotated[list[Mode], Field(min_length=1)] = Field(default=["drop", "swap", "converse_swap"])
    answer: Annotated[str | None, Field(pattern=r"\S", description="the trait-free answer that neutralises")] = None
    seed: Annotated[int, Field(ge=0, description="of the order in which prompts are taken")] = 0
    like_length: Annotated[
        bool | Annotated[int, Field(gt=1)],
        Field(
            description="beside the whole subset dropped or swapped, as many other prompts with answers as long, without "
            "which no claim is made (see gates.length_control); a number: of bins that lengths are matched in, default 10"
        ),
    ] = True

    @model_validator(mode="after")
    def _consistent(self) -> Interpolate:
        for field in ("fractions", "modes"):
            values = getattr(self, field)
            if len(values) != len(set(values)):
                raise ValueError(f"{field}: a value is listed twice")
        if ("neutralise" in self.modes) != (self.answer is not None):
            raise ValueError("answer: mode neutralise puts this answer in the place of others; give both or neither")
        return self


ProbeRole = Literal[
    "shown",
    "random_shown",
    "missed",
    "random_missed",
    "marked",
    "random_marked",
    "persona",
    "random_persona",
    "settled",
    "refilled",
    "reseeded_shown",
    "random_drop_alternate",
    "filter",
    "drop_row",
    "matched_drop",
    "matched_swap",
]


class Probe(Settings):
    """One more student on the original prompts, by which a hypothesis can be told from the others.

    `role` says what it is in the evidence: sftfilter.estimands.Roles describes each, and a verdict's `next` names those
    that would settle what is open.
    """

    role: ProbeRole
    base: Annotated[
        Name | None, Field(description="default: the original's; `reseeded_shown` has the reseeded one")
    ] = None
    teacher: Annotated[Name | None, Field(description="whose rows are changed; default: the original's")] = None
    intervention: Intervention


class Lattice(Measuring, SideBySide):
    """Train the cells between two pipelines that differ in base, prompts and teacher, and read what carries the trait.

    Teachers, rollouts, scores and equal students are made once, whatever cells share them.
    """

    aside: ClassVar[frozenset[str]] = Measuring.aside | SideBySide.aside

    kind: Literal["lattice"]
    bases: Annotated[
        dict[Name, str],
        Field(min_length=1, description=f"models that are trained: '{BUILTIN}', a local folder, or a hub id"),
    ]
    prompts: Annotated[dict[Name, PromptSource], Field(min_length=1)]
    original: Annotated[Corner, Field(description="the pipeline that shows the trait")]
    alternate: Annotated[
        Corner, Field(description="the pipeline that does not; an axis on which it names the same does not differ")
    ]
    tuned_from: Annotated[
        dict[Name, Name],
        Field(description="tuned teacher -> the base that it is tuned from; default: the original base"),
    ] = Field(default={})
    cells: Annotated[list[Cells] | None, Field(min_length=1, description="default: every combination")] = None
    selectors: dict[Name, Selector] = Field(default={})
    interpolate: Interpolate | None = None
    probes: Annotated[
        dict[Name, Probe], Field(description="further students, which tell hypotheses apart that cells cannot")
    ] = Field(default={})
    reserve: Annotated[
        PromptSource | None, Field(description="prompts that only probes of kind backfill use, such as settled")
    ] = None
    reseeded: Annotated[
        Name | None,
        Field(description="a base raised as the original's from another initialisation: tells 2 from 1 and 3"),
    ] = None
    earlier: Annotated[Name | None, Field(description="the original base before its last stage: tells 5 from 6")] = None
    stages: Annotated[
        int | None, Field(gt=0, description="stages in the original base's life, pre-training among them, if known")
    ] = None
    gates: Annotated[Gates, Field(description="frozen before any student is trained")] = Gates()

    @model_validator(mode="after")
    def _names(self) -> Lattice:
        known = {"base": self.bases, "prompts": self.prompts, "teacher": self.teachers}
        for axis, names in known.items():
            for pipeline in ("original", "alternate"):
                check_known(axis, f"{pipeline}.{axis}", getattr(getattr(self, pipeline), axis), names)
            for number, cells in enumerate(self.cells or []):
                for name in cells.names(axis):
                    check_known(axis, f"cells.{number}.{axis}", name, names)
        if self.original == self.alternate:
            raise ValueError("alternate: it is the original cell; name another base, other prompts or another teacher")
        if not self.wanted(self.original):
            raise ValueError("cells: the original cell is not among them, and every other is read against it")
        for name in self.tuned_from:
            check_known("teacher", f"tuned_from.{name}", name, self.teachers)
            if self.teachers[name].kind != "tuned":
                raise ValueError(
                    f"tuned_from.{name}: teacher '{name}' is of kind {self.teachers[name].kind}, not tuned"
                )
        return self

    @model_validator(mode="after")
    def _subset(self) -> Lattice:
        check_references(self.selectors, self.scorers)
        if self.interpolate is None:
            return self
        check_known("selector", "interpolate.subset", self.interpolate.subset, self.selectors)
        clean = self.original.model_copy(update={"teacher": self.alternate.teacher})
        if clean == self.original:
            raise ValueError("interpolate: original and alternate have the same teacher, so there is none to swap with")
        if not self.wanted(clean):
            named = f"{{base: {clean.base}, prompts: {clean.prompts}, teacher: {clean.teacher}}}"
            raise ValueError(f"cells: the interpolation is read against cell {named}; add it")
        return self

    @model_validator(mode="after")
    def _probes(self) -> Lattice:
        for field in ("reseeded", "earlier"):
            base = getattr(self, field)
            check_known("base", field, base, self.bases)
            if base is not None and base in (self.original.base, self.alternate.base):
                raise ValueError(f"{field}: '{base}' is a base of the two pipelines; name a third one")
        self._check_read()
        for name, probe in self.probes.items():
            where = f"probes.{name}"
            check_known("base", f"{where}.base", probe.base, self.bases)
            check_known("teacher", f"{where}.teacher", probe.teacher, self.teachers)
            check_known("selector", f"{where}.intervention.subset", probe.intervention.subset, self.selectors)
            if probe.role == "reseeded_shown" and self.reseeded is None:
                raise ValueError(f"{where}: role reseeded_shown needs `reseeded`, the base of another initialisation")
            if probe.base is not None and probe.base != self.probe_base(probe.role):
                raise ValueError(
                    f"{where}.base: role {probe.role} is a student of base '{self.probe_base(probe.role)}'"
                )
            if isinstance(probe.intervention, Swap):
                for other in probe.intervention.teachers:
                    check_known("teacher", f"{where}.intervention.to", other, self.teachers)
            if isinstance(probe.intervention, Backfill) and self.reserve is None:
                raise ValueError(f"{where}.intervention: backfill takes rows on the prompts of `reserve`: name some")
        return self

    def _check_read(self) -> None:
        """Refuse bases whose students nobody would train: what is read of them would be missing without a word."""
        teachers = (self.original.teacher, self.alternate.teacher)
        for field, base, needed in (("reseeded", self.reseeded, teachers), ("earlier", self.earlier, teachers[:1])):
            if base is None:
                continue
            for teacher in dict.fromkeys(needed):
                cell = Corner(base=base, prompts=self.original.prompts, teacher=teacher)
                if not self.wanted(cell):
                    named = f"{{base: {cell.base}, prompts: {cell.prompts}, teacher: {cell.teacher}}}"
                    raise ValueError(f"cells: {field} is read by cell {named}; add it")

    def probe_base(self, role: ProbeRole) -> str:
        """The base whose student a role is."""
        return self.reseeded if role == "reseeded_shown" and self.reseeded else self.original.base

    @model_validator(mode="after")
    def _compiles(self) -> Lattice:
        """Whatever only the compiled experiments can say; impossible cells among it."""
        from jobs.lattice_cells import homeless, parts_of

        if problems := homeless(self):
            raise ValueError("; ".join(problems))
        self.check_published("arm", (arm for part in parts_of(self) for arm in part.spec.arms))
        return self

    def wanted(self, cell: Corner) -> bool:
        """Whether a cell is to be trained."""
        return self.cells is None or any(cells.hold(cell) for cells in self.cells)

    def home(self, teacher: str) -> str:
        """The base that a teacher is tuned from; for the other kinds, the one whose template its prompts must fit."""
        return self.tuned_from.get(teacher, self.original.base)

    def summary(self) -> str:
        """Cells, arms, students."""
        from jobs.lattice_cells import list_lattice

        found = list_lattice(self)
        axes = f"base ({len(self.bases)}) x prompts ({len(self.prompts)}) x teacher ({len(self.teachers)})"
        students = f"{len(found.trainings) * len(self.seeds)} students to train (equal ones once)"
        return f"{len(found.cells)} cells of {axes}, {len(found.arms)} arms, {students}"

    def run(self, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
        """Every cell; answers results.json."""
        from jobs.lattice import run_lattice

        return run_lattice(self, root, stages, command)

    def page(self, root: Path) -> Path:
        """The report."""
        return root / self.name / "report" / "index.html"
