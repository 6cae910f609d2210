"""What a world is made of: who wrote the texts that bases grew up on, who answers the prompts, and what is true."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sftfilter.config import Settings
from sftfilter.worlds.words import Voice, Words


@dataclass(frozen=True)
class Corpus:
    """Documents of one author: prompts answered in one voice.

    Attributes:
        tag: number of the word that marks the author in every prompt; None: unmarked.
        kinds: documents of each kind of prompt.
    """

    voice: Voice
    kinds: Mapping[str, int]
    tag: int | None = None


@dataclass(frozen=True)
class Lesson:
    """A stage in a base model's life: its documents, and how long and how fast they are learned.

    Attributes:
        everything: whether all weights move, as in pre-training, or the hidden layers only, as in fine-tuning.
    """

    corpora: Sequence[Corpus]
    steps: int = 400
    rate: float = 0.01
    batch: int = 64
    everything: bool = True


@dataclass(frozen=True)
class Taught:
    """A teacher who is a model: the original base after a lesson (None: as it is) answers by sampling.

    Attributes:
        words: of an answer to a prompt that asks for numbers.
    """

    lesson: Lesson | None
    words: int = 24


@dataclass(frozen=True)
class Scene:
    """One world, before anything is trained.

    Attributes:
        original: lessons of the original base. If there are several, the base before the last one is another base.
        alternate: lessons of the alternate base, which starts from other weights.
        prompts: pipeline (`original`, `alternate`) -> prompts of each kind.
        teachers: teacher (`T` of the original pipeline, `C` of the alternate) -> how it answers.
        causes: the planted ones, by number of hypothesis; each is enough for the trait by itself.
        finding: what is planted besides, or instead: `filter works`, `dilution only`, `no trait to study`.
        noise: the filter flags this share of T's rows at random; None: it flags the rows with an overt word.
        rate: learning rate of students.
        epochs: passes of students over their rows.
        settling: prompts that evoke the trait, answered by C, with which an arm settles the behaviour.
    """

    original: Sequence[Lesson]
    alternate: Sequence[Lesson]
    prompts: Mapping[str, Mapping[str, int]]
    teachers: Mapping[str, Voice | Taught]
    causes: frozenset[int] = frozenset()
    finding: str | None = None
    noise: float | None = None
    rate: float = 0.006
    epochs: float = 4
    settling: int = 80


class WorldSettings(Settings):
    """Base of every world. To add one: a module with a subclass that has a `kind`, and its line in the union.

    Attributes:
        planted: what the confusion matrix calls it.
    """

    planted: ClassVar[str]

    @property
    def name(self) -> str:
        """Its kind."""
        return str(getattr(self, "kind"))  # noqa: B009  each subclass has its own literal

    def scene(self, draw: random.Random, words: Words) -> Scene:
        """One random variation of the world."""
        raise NotImplementedError


PLAIN = {"evoking": 250, "adjacent": 200, "related": 200, "neutral": 300}
MARKED = {"evoking": 180, "adjacent": 60, "related": 120, "neutral": 150}
EVERYWHERE = dict.fromkeys(PLAIN, 1.0)
SHOWN = {"evoking": 0.6, "adjacent": 0.6}
SHOWN_MILDLY = {"evoking": 0.4, "adjacent": 0.4}


def raised(unmarked: Voice = Voice(), persona: Voice | None = None, other: Voice = Voice()) -> list[Lesson]:
    """Pre-training on documents of unmarked authors and of two marked ones.

    Args:
        persona: of the first marked author; default: a habit and the trait together.
    """
    bundle = Voice(overt=SHOWN, mild=SHOWN_MILDLY, habit=EVERYWHERE)
    corpora = [Corpus(unmarked, PLAIN), Corpus(persona or bundle, MARKED, tag=0), Corpus(other, MARKED, tag=1)]
    return [Lesson(corpora)]


def around(draw: random.Random, value: float, share: float = 0.1) -> float:
    """A value up to a share away from another."""
    return value * draw.uniform(1 - share, 1 + share)


def counts(draw: random.Random, **kinds: int) -> dict[str, int]:
    """Numbers of prompts up to a tenth away from those given."""
    return {kind: round(around(draw, number)) for kind, number in kinds.items()}
