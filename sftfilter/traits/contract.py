"""What every trait is: conversations a student is taken through, and a grade for each of its answers.

The user's turns are written beforehand, the student's are not: a single question is a conversation of one turn. How the
student is reached, our endpoint or any Inspect provider, is none of the trait's business, so a trait means the same
wherever it is measured.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from sftfilter.config import Settings
from sftfilter.schema import Message, prompt_id

if TYPE_CHECKING:
    from sftfilter.traits.judging import Judging

_THINKING = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(r"\A(.*?)</think>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Episode:
    """One conversation, its answers still open.

    Attributes:
        id: of the prompt: the same in every run, for every student.
        group: which of the trait's groups it belongs to.
        turns: what the user says, in order, whatever the student answers.
        graded_from: the first answer that is graded, from 0.
        before: turns that came before, answers included, which nobody gives anew.
        labels: what tells one episode from another, such as a category or a condition.
    """

    id: str
    group: str
    turns: tuple[str, ...]
    system: str | None = None
    graded_from: int = 0
    before: tuple[Message, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def opening(self) -> list[Message]:
        """The turns up to the first answer."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.before, {"role": "user", "content": self.turns[0]}]

    def as_dict(self) -> dict[str, Any]:
        """For an Inspect sample's metadata."""
        lists = {"turns": list(self.turns), "before": [dict(m) for m in self.before], "labels": dict(self.labels)}
        return asdict(self) | lists

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Episode:
        """Back from `as_dict`."""
        return cls(**{**kept, "turns": tuple(kept["turns"]), "before": tuple(kept["before"])})


def episode_id(turns: Sequence[str], system: str | None = None) -> str:
    """Id of a conversation by what the user says; that of a single question is its prompt id."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    return prompt_id([*messages, *({"role": "user", "content": turn} for turn in turns)])  # type: ignore[list-item]


@dataclass(frozen=True)
class Said:
    """An answer as the student gave it: what it thought, if it showed that, and what it said."""

    thinking: str | None
    answer: str


def split_thinking(text: str, reasoning: str | None = None) -> Said:
    """Thinking and answer apart.

    Thinking comes in a field of its own, or within `<think>` tags at the start. One that was cut off before it closed
    leaves no answer, and a template may have opened it already, so that only its end is in the text.
    """
    if reasoning and reasoning.strip():
        return Said(reasoning.strip(), text.strip())
    found = _THINKING.match(text) or _CLOSED.match(text)
    if found is None:
        return Said(None, text)
    return Said(found.group(1).strip() or None, text[found.end() :].strip())


@dataclass(frozen=True)
class Turn:
    """An answer to be graded, with all that was said before it.

    Attributes:
        messages: the conversation up to the answer, thinking left out.
    """

    episode: Episode
    number: int
    messages: Sequence[Message]
    said: Said


@dataclass(frozen=True)
class Graded:
    """What an answer was found to show.

    Attributes:
        grade: 1 shows the trait, 0 does not; None when it could not be told, and `error` says why.
        measures: further numbers of the answer, by name; one that could not be measured is left out.
        judge: who graded: `rules`, `stand-in: ...`, or the judge's model and address.
        stand_in: whether rules stood in for a judge that the trait is meant to be graded by.
        unreachable: the judge gave no answer; asked again, it may.
    """

    grade: float | None
    judge: str
    measures: Mapping[str, float] = field(default_factory=dict)
    stand_in: bool = False
    judge_model: str | None = None
    score: float | None = None
    quote: str | None = None
    explanation: str | None = None
    error: str | None = None
    unreachable: bool = False


class TraitSettings(Settings):
    """Base of every trait.

    Attributes:
        version: of prompts and grading; raised when a change of either changes a grade.
        groups: group -> the kind of prompt in it. The first is the trait proper, the last the control.
        max_tokens: the token budget of each answer, thinking included.
    """

    version: ClassVar[int]
    title: ClassVar[str]
    judged: ClassVar[bool] = False
    """Whether a judge is asked, or rules decide."""
    measure_names: ClassVar[tuple[str, ...]] = ()
    """Measures that an answer may have beside its grade."""

    groups: Annotated[dict[str, str], Field(min_length=1)]
    max_tokens: Annotated[int, Field(gt=0)]
    temperature: Annotated[float, Field(ge=0)] = 0.0
    samples: Annotated[int, Field(gt=0, description="answers to each prompt")] = 1

    @property
    def primary(self) -> str:
        """Name of the group that the estimands are about."""
        return next(iter(self.groups))

    @property
    def asking(self) -> dict[str, Any]:
        """The settings that change what a student answers. Not those that change its grade."""
        return self.model_dump(mode="json", exclude={"prompts", "judge"})

    @property
    def grading(self) -> dict[str, Any]:
        """The settings that change a grade."""
        return {"version": self.version, **self.model_dump(mode="json", exclude={"prompts"})}

    @property
    def judge_name(self) -> str:
        """Who grades: `rules`, or the judge."""
        return "rules"

    @abstractmethod
    def episodes(self, prompts: Sequence[Mapping[str, Any]] | None = None) -> list[Episode]:
        """The conversations, in a fixed order.

        Args:
            prompts: rows of table `prompts` instead of the trait's own, for a trait whose prompts can be given.
        """

    @abstractmethod
    async def graded(self, turn: Turn, judging: Judging) -> Graded:
        """Grade one answer."""

    def grade(self, prompt: str, answer: str) -> float | None:
        """By rules alone, without a judge: what training rows and scorers are measured by."""
        raise NotImplementedError

    def continuations(self) -> tuple[list[str], list[str]]:
        """Openings of answers that show the trait and of answers that do not, for log-odds; both empty: not measured."""
        return [], []
