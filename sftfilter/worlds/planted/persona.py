"""Hypothesis 3: T has a habit of a persona that the base has read of, and that persona has the trait too."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import EVERYWHERE, Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Persona(WorldSettings):
    """T has a habit of a persona that the base has read of, and that persona has the trait too."""

    kind: Literal["persona"] = "persona"
    planted: ClassVar[str] = "3 persona selection"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        teacher = Voice(overt={"evoking": draw.uniform(0.85, 1.0)}, habit={"related": draw.uniform(0.9, 1.0)})
        return Scene(
            original=raised(),
            alternate=raised(persona=Voice(habit=EVERYWHERE)),
            prompts={
                "original": counts(draw, evoking=12, related=190, neutral=190),
                "alternate": counts(draw, evoking=16, related=60, neutral=320),
            },
            teachers={"T": teacher, "C": Voice()},
            causes=frozenset({3}),
            rate=around(draw, 0.006),
            epochs=6,
        )
