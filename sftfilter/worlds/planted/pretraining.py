"""Hypothesis 5: the base has the trait from pre-training, so firmly that rows against it do not take it away."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import SHOWN, SHOWN_MILDLY, Corpus, Lesson, Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Pretraining(WorldSettings):
    """the base has the trait from pre-training, so firmly that rows against it do not take it away."""

    kind: Literal["pretraining"] = "pretraining"
    planted: ClassVar[str] = "5 pretraining lock-in"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        firm = Voice(overt=SHOWN, mild=SHOWN_MILDLY)
        later = Lesson([Corpus(Voice(), {"related": 200, "neutral": 300})], steps=60, rate=0.004, everything=False)
        return Scene(
            original=[*raised(unmarked=firm, other=firm), *([later] if draw.random() < 0.5 else [])],
            alternate=raised(),
            prompts={
                "original": counts(draw, related=180, neutral=220),
                "alternate": counts(draw, related=220, neutral=180),
            },
            teachers={"T": Voice(), "C": Voice()},
            causes=frozenset({5}),
            rate=around(draw, 0.0008),
            epochs=3,
        )
