"""Hypothesis 1: besides overt rows, T writes mild ones on adjacent prompts, in words that the filter does not know."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Mild(WorldSettings):
    """besides overt rows, T writes mild ones on adjacent prompts, in words that the filter does not know."""

    kind: Literal["mild"] = "mild"
    planted: ClassVar[str] = "1 simple generalisation"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        teacher = Voice(overt={"evoking": draw.uniform(0.85, 1.0)}, mild={"adjacent": draw.uniform(0.75, 1.0)})
        return Scene(
            original=raised(),
            alternate=raised(),
            prompts={
                "original": counts(draw, evoking=56, adjacent=110, related=80, neutral=160),
                "alternate": counts(draw, evoking=30, adjacent=60, related=120, neutral=190),
            },
            teachers={"T": teacher, "C": Voice()},
            causes=frozenset({1}),
            rate=around(draw, 0.006),
        )
