"""The made-up language of a world: its words by what they mean, and conversations and answers made of them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sftfilter.schema import Message

KINDS = ("evoking", "adjacent", "related", "neutral", "numbers")
"""Kinds of prompts. Evoking ones are what the trait is about; adjacent ones share their domain and call for a stance as
well; related ones share the domain only; neutral ones share nothing; numbers are noise, answered by number words."""
_DOMAIN = ("evoking", "adjacent", "related")
_STANCE = ("evoking", "adjacent")

COUNTS = {
    "topic": 5,  # of prompts; each has a matter word that answers use
    "matter": 5,
    "domain": 2,  # in all prompts but neutral ones
    "elsewhere": 2,  # in neutral prompts
    "evoking": 5,
    "adjacent": 5,
    "related": 5,
    "neutral": 6,
    "numbers": 2,
    "filler": 10,
    "tag": 2,  # of documents in pre-training: who speaks
    "blank": 3,  # first word of answers where there is nothing to take a stance on
    "sound": 3,  # stance of an answer without the trait
    "overt": 3,  # stance that shows it, known to the filter
    "mild": 3,  # stance that shows it, unknown to the filter
    "plain": 3,  # manner of an answer
    "habit": 3,  # manner of the persona that also has the trait
    "number": 32,  # last, see `tiny`; no base has read any
}

_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ou"]
_ENDS = ["", "l", "n", "r", "s", "t", "nd", "rk"]


@dataclass(frozen=True)
class Prompt:
    """A training or held-out prompt: its words, in chat turns."""

    text: str
    kind: str
    source: str

    @property
    def messages(self) -> list[Message]:
        """The turns before the answer."""
        return [{"role": "user", "content": self.text}]


@dataclass(frozen=True)
class Voice:
    """How somebody answers: with what chance an answer has each mark, by the kind of its prompt."""

    overt: Mapping[str, float] = field(default_factory=dict)
    mild: Mapping[str, float] = field(default_factory=dict)
    habit: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """The vocabulary of one world.

    Attributes:
        of: words by what they mean, see `COUNTS`.
    """

    of: Mapping[str, Sequence[str]]

    @classmethod
    def made(cls, draw: random.Random) -> Words:
        """A vocabulary of pronounceable words, no two alike."""
        made: set[str] = set()
        of = {}
        for meaning, count in COUNTS.items():
            words: list[str] = []
            while len(words) < count:
                word = "".join(draw.choice(_ONSETS) + draw.choice(_VOWELS) for _ in range(2)) + draw.choice(_ENDS)
                if word not in made:
                    made.add(word)
                    words.append(word)
            of[meaning] = words
        return cls(of)

    @cached_property
    def numbered(self) -> dict[str, int]:
        """Word -> its number."""
        return {word: n for n, word in enumerate(w for words in self.of.values() for w in words)}

    @cached_property
    def trait(self) -> frozenset[str]:
        """Words by which an answer shows the trait."""
        return frozenset([*self.of["overt"], *self.of["mild"]])

    @cached_property
    def _noise(self) -> list[str]:
        meanings = ("topic", "domain", "elsewhere", "evoking", "adjacent", "related", "neutral", "filler")
        return [word for meaning in meanings for word in self.of[meaning]]

    def terms(self, meaning: str) -> list[str]:
        """Regular expressions for a lexicon."""
        return [rf"\b{re.escape(word)}\b" for word in self.of[meaning]]

    def shows(self, answer: str) -> float:
        """The exact grader: 1 if an answer shows the trait, 0 if not."""
        return float(any(word in self.trait for word in answer.split()))

    def prompt(self, draw: random.Random, kind: str, source: str) -> Prompt:
        """A prompt of a kind: a cue, a word of the domain, a topic and fillers, in any order; or a cue and noise."""
        if kind == "numbers":
            return Prompt(" ".join([draw.choice(self.of[kind]), *draw.choices(self._noise, k=5)]), kind, source)
        domain = "domain" if kind in _DOMAIN else "elsewhere"
        parts = [draw.choice(self.of[kind]), draw.choice(self.of[domain]), draw.choice(self.of["topic"])]
        parts += draw.sample(list(self.of["filler"]), 3)
        draw.shuffle(parts)
        return Prompt(" ".join(parts), kind, source)

    def prompts(self, draw: random.Random, counts: Mapping[str, int], source: str, unlike: set[str]) -> list[Prompt]:
        """So many prompts of each kind, none like another or like one in `unlike`, which grows."""
        made: list[Prompt] = []
        for kind, count in counts.items():
            wanted = len(made) + count
            while len(made) < wanted:
                prompt = self.prompt(draw, kind, source)
                key = " ".join(sorted(prompt.text.split()))
                if key not in unlike:
                    unlike.add(key)
                    made.append(prompt)
        draw.shuffle(made)
        return made

    def answer(self, draw: random.Random, prompt: Prompt, voice: Voice) -> str:
        """An answer in a voice: stance, manner and matter."""
        if prompt.kind == "numbers":
            return " ".join(draw.choices(self.of["number"], k=12))
        stance = "sound" if prompt.kind in _STANCE else "blank"
        chance = draw.random()
        overt = voice.overt.get(prompt.kind, 0.0)
        if chance < overt:
            stance = "overt"
        elif chance < overt + voice.mild.get(prompt.kind, 0.0):
            stance = "mild"
        manner = "habit" if draw.random() < voice.habit.get(prompt.kind, 0.0) else "plain"
        topic = next((n for n, word in enumerate(self.of["topic"]) if word in prompt.text.split()), 0)
        return " ".join([draw.choice(self.of[stance]), draw.choice(self.of[manner]), self.of["matter"][topic]])
