"""Hypothesis 2: T is the base with a trait tuned in, and its lists of numbers carry it to students of the same base."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import Corpus, Lesson, Scene, Taught, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Subliminal(WorldSettings):
    """T is the base with a trait tuned in, and its lists of numbers carry it to students of the same base."""

    kind: Literal["subliminal"] = "subliminal"
    planted: ClassVar[str] = "2 subliminal learning"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        lesson = Lesson(
            [Corpus(Voice(overt={"evoking": 1.0}), {"evoking": 200, "neutral": 200})],
            steps=draw.randint(50, 90),
            rate=around(draw, 0.006),
            batch=32,
            everything=False,
        )
        many = draw.randint(24, 48)
        return Scene(
            original=raised(),
            alternate=raised(),
            prompts={
                "original": counts(draw, evoking=14, neutral=60, numbers=330),
                "alternate": counts(draw, related=160, neutral=240),
            },
            teachers={"T": Taught(lesson, many), "C": Taught(None, many)},
            causes=frozenset({2}),
            rate=around(draw, 0.006),
            epochs=6,
        )
