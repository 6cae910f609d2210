"""One hypothesis, as its rule goes on: what is known without training, the arms' readings, and the evidence so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sftfilter.readings import Reading, Word

if TYPE_CHECKING:
    from sftfilter.stats import Estimate

Status = Literal["supported", "contradicted", "undecided", "not tested"]


@dataclass(frozen=True)
class Facts:
    """What is known without training.

    Attributes:
        left_over: rows that show the trait among those that the filter keeps, and how many it keeps.
        marked: rows with a habit of the trait's persona that do not show it; None: nobody looked.
        stages: stages in the original base's life, pre-training among them; None: not known.
    """

    left_over: tuple[int, int] | None = None
    marked: int | None = None
    stages: int | None = None


@dataclass
class Case:
    """One hypothesis, as its rule goes on.

    Attributes:
        unlike: how much larger one arm's share is than another's, at the level that a status needs.
        seen: the same with its plain 95 % interval, by which a sign of something is not overlooked.
        length_control: what S does counts only beside what as many rows of like length do.
        missing: roles whose arms would decide it.
    """

    arms: Mapping[str, Reading]
    facts: Facts
    unlike: Callable[[str, str], Estimate | None]
    seen: Callable[[str, str], Estimate | None]
    length_control: bool = True
    evidence_for: list[str] = field(default_factory=list)
    evidence_against: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def word(self, role: str) -> Word | None:
        """How an arm reads; None when it is not there."""
        return self.arms[role].word if role in self.arms else None

    def __call__(self, role: str, word: Word) -> bool:
        """Whether an arm reads so."""
        return self.word(role) == word

    def surely_left(self, role: str) -> bool:
        """Whether some of the trait, however little, is left in an arm (95 %)."""
        low = self.arms[role].low
        return low is not None and low > 0

    def supports(self, role: str, why: str) -> None:
        """An arm that speaks for it."""
        self.evidence_for.append(f"{self.arms[role]}: {why}")

    def denies(self, role: str, why: str) -> None:
        """An arm that speaks against it."""
        self.evidence_against.append(f"{self.arms[role]}: {why}")

    def needs(self, *roles: str) -> None:
        """Arms that would decide it, of which some may be there."""
        self.missing += [role for role in roles if role not in self.arms and role not in self.missing]

    def contradicted(self, role: str, why: str) -> Status:
        """An arm settles that it is not so."""
        self.denies(role, why)
        return "contradicted"
