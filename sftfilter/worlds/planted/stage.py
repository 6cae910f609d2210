"""Hypothesis 6: an earlier fine-tuning stage taught the base the trait, so firmly that rows against it do not take it away."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import (
    EVERYWHERE,
    SHOWN,
    SHOWN_MILDLY,
    Corpus,
    Lesson,
    Scene,
    WorldSettings,
    around,
    counts,
    raised,
)
from sftfilter.worlds.words import Voice, Words


class Stage(WorldSettings):
    """an earlier fine-tuning stage taught the base the trait, so firmly that rows against it do not take it away."""

    kind: Literal["stage"] = "stage"
    planted: ClassVar[str] = "6 post-training lock-in"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        firm = Voice(overt=SHOWN, mild=SHOWN_MILDLY)
        stage = Lesson([Corpus(firm, {"evoking": 300, "related": 100, "neutral": 200})], steps=300, rate=0.006)
        return Scene(
            original=[*raised(persona=Voice(habit=EVERYWHERE)), stage],
            alternate=raised(persona=Voice(habit=EVERYWHERE)),
            prompts={
                "original": counts(draw, related=180, neutral=220),
                "alternate": counts(draw, related=220, neutral=180),
            },
            teachers={"T": Voice(), "C": Voice()},
            causes=frozenset({6}),
            rate=around(draw, 0.001),
            epochs=3,
        )
