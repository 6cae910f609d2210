"""Things to make: rollouts, scores, students and answers, each with all it follows from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["rollouts", "scores", "student", "answers"]
STAGES = ("tuning", "rollouts", "scores", "training", "evaluation")


@dataclass(frozen=True)
class Item:
    """One thing to make.

    Attributes:
        of: teacher, scorer, or student that it is of, by which its cost is looked up.
        count: rollouts, rows, row visits, or answers.
        key: of all it follows from, as far as that can be told without the data; equal items are made once.
        told_as: how a run's record calls it.
        share: the fewest of `count` that are worth a worker.
        kind_of: a scorer's kind.
        tokens: read and written, an estimate.
        exports: a student's checkpoints in between.
        model: that the work is done by; empty where that is none of ours.
        flops: of all of it; 0 where the model's size is not known.
    """

    stage: str
    kind: Kind
    of: str
    count: int
    key: str
    told_as: str
    share: int = 1
    kind_of: str = ""
    tokens: float = 0.0
    exports: int = 0
    sure: bool = True
    model: str = ""
    flops: float = 0.0


@dataclass
class Sizes:
    """Everything that a spec would make.

    Attributes:
        heldout: trait -> group -> prompts.
        at_once: whether students are trained side by side.
        decided: arms times seeds, whose rows are decided each.
    """

    items: list[Item] = field(default_factory=list)
    heldout: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    at_once: bool = False
    decided: int = 0

    def add(self, items: Sequence[Item]) -> None:
        """Add what is not there yet."""
        known = {(item.kind, item.key) for item in self.items}
        for item in items:
            if (item.kind, item.key) not in known:
                known.add((item.kind, item.key))
                self.items.append(item)

    def of_kind(self, kind: Kind, stage: str | None = None) -> list[Item]:
        """Items of a kind, of one stage or all."""
        return [item for item in self.items if item.kind == kind and stage in (None, item.stage)]

    def say(self, note: str) -> None:
        """Something that a person should know, once."""
        if note not in self.notes:
            self.notes.append(note)


def totals(items: Sequence[Item]) -> Iterator[tuple[str, str, Sequence[Item]]]:
    """What is made, and of what, with the items that it is: a line of a table each."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        title, of = _TITLES[item.kind, item.stage == "tuning"], item.of
        if item.kind in ("student", "answers"):
            of = ""
        groups.setdefault((title, of), []).append(item)
    for (title, of), found in groups.items():
        yield title, of, found


_TITLES = {
    ("rollouts", True): "rollouts to tune on",
    ("rollouts", False): "rollouts",
    ("scores", False): "rows scored",
    ("student", True): "teachers tuned",
    ("student", False): "students trained",
    ("answers", False): "answers asked",
}
