"""Designs: what each kind of job compares, and how much of the trait its arms are guessed to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from jobs.kinds.carriers import Carriers
from jobs.kinds.experiment import Experiment
from jobs.kinds.lattice import Lattice
from jobs.lattice_cells import cell_name, main_part, parts_of, role_places
from sftfilter.carriers import CONTRASTS
from sftfilter.config import Settings
from sftfilter.estimands import MADE_OF

if TYPE_CHECKING:
    from jobs.kinds.job import JobSpec
    from jobs.kinds.study import Measuring
    from jobs.lattice_curves import Step
    from sftfilter.findings import Gates

Share = Annotated[float, Field(ge=0, le=1)]
_CLEAN = ("alternate", "drop_alternate", "random_drop_alternate", "pipeline")
_SHOWN = {"original": 0.7, "swap": 0.1, "drop": 0.3, "random_drop": 0.6, "random_swap": 0.6}
Estimands = Mapping[str, tuple[Sequence[str], Any, str]]
"""Contrast -> roles (or arms) that it needs, how it is made of their rates, and what it says."""


class Guesses(Settings):
    """What stands in for a pilot.

    Attributes:
        rates: role, or arm of a lattice's interpolation -> share of answers that show the trait; others: `rate`.
        prompt_share: share of a grade's variance that belongs to the prompt, the same for every student.
        sample_share: share of the variance that neither prompt nor seed explains which differs between samples of one
            prompt from one student, and so is averaged out by more of them; the rest is how this student takes this prompt.
        seed_sd: standard deviation of a rate of one half between training seeds; less towards 0 and 1.
        pairing: correlation of the prompts' effects between two arms, which pairing takes out of differences.
    """

    rates: dict[str, Share] = Field(default={**_SHOWN, **dict.fromkeys(_CLEAN, 0.02)})
    rate: Share = 0.5
    prompt_share: Share = 0.5
    sample_share: Share = 0.5
    seed_sd: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    pairing: Share = 0.0

    def of(self, role: str) -> float:
        """An arm's rate."""
        return self.rates.get(role, self.rate)


@dataclass(frozen=True)
class Design:
    """What is compared, whatever kind of job compares it.

    Attributes:
        estimands: those that its arms allow.
        share: of the held-out prompts that the comparison reads.
        between: arm -> (role it starts from, role it ends at or None, how far it is), whose rate is guessed in between.
    """

    spec: Measuring
    gates: Gates
    estimands: Estimands
    share: float = 1.0
    between: Mapping[str, tuple[str, str | None, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: JobSpec) -> Design | None:
        """None for the kinds whose contrasts are not laid down in their spec."""
        match spec:
            case Experiment():
                roles = spec.roles.named()
                named = {name: one for name, one in MADE_OF.items() if roles.keys() >= {*one[0]}}
                return cls(spec, spec.gates, named)
            case Carriers():  # the confirmation, on its own seeds and its part of the held-out prompts
                whole = {n: (("original", "alternate", *needs), *rest) for n, (needs, *rest) in CONTRASTS.items()}
                return cls(spec, spec.gates, whole, 1 - spec.search_share)  # pyright: ignore[reportArgumentType]
            case Lattice():
                return _of_lattice(spec)
            case _:
                return None

    def rate(self, role: str, guesses: Guesses) -> float:
        """The guessed rate of a role or an arm."""
        if role in guesses.rates or role not in self.between:
            return guesses.of(role)
        start, end, share = self.between[role]
        return (1 - share) * guesses.of(start) + share * guesses.of(end or "")


def _of_lattice(spec: Lattice) -> Design:
    """Every cell against the original, each changed share against as many random prompts, and the estimands."""
    parts = parts_of(spec)
    role_of = {place: role for role, place in role_places(spec, parts).items()}
    found: dict[str, tuple[Sequence[str], Any, str]] = {}
    for number, part in enumerate(parts):
        for arm, cell in part.cells.items():
            if cell != spec.original:
                role = role_of.get((number, arm), arm)
                found[f"original - {cell_name(cell)}"] = _less(
                    "original", role, "trait of the original less the cell's"
                )
    steps = [step for step in parts[main_part(spec, parts)].steps if step.fraction > 0]
    for step in steps:
        meaning = "what changing the subset removes beyond as many random prompts"
        found[f"random - {step.arm}"] = _less(step.control, step.arm, meaning)
    cells = ("gap", "pipeline_gap")  # a cell each
    roles = {*role_of.values()}
    found |= {name: one for name, one in MADE_OF.items() if name not in cells and roles >= {*one[0]}}
    return Design(spec, spec.gates, found, between=_between(steps))


def _less(more: str, less: str, meaning: str) -> tuple[Sequence[str], Any, str]:
    return (more, less), lambda y: y[more] - y[less], meaning


def _between(steps: Sequence[Step]) -> dict[str, tuple[str, str | None, float]]:
    from jobs.lattice_curves import ROLES

    found = {}
    for step in steps:
        start = "alternate" if step.mode.startswith("converse") else "original"
        for arm, role in zip((step.arm, step.control), ROLES[step.mode], strict=True):
            found[arm] = (start, role, step.fraction)
    return found
