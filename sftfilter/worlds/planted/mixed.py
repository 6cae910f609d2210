"""Hypotheses 1 and 3: mild rows on adjacent prompts and a persona's habit on related ones, each enough by itself."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import EVERYWHERE, Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Mixed(WorldSettings):
    """mild rows on adjacent prompts and a persona's habit on related ones, each enough by itself."""

    kind: Literal["mixed"] = "mixed"
    planted: ClassVar[str] = "1 and 3 together"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        teacher = Voice(
            overt={"evoking": draw.uniform(0.85, 1.0)},
            mild={"adjacent": 1.0},
            habit={"related": draw.uniform(0.9, 1.0)},
        )
        return Scene(
            original=raised(),
            alternate=raised(persona=Voice(habit=EVERYWHERE)),
            prompts={
                "original": counts(draw, evoking=12, adjacent=70, related=220, neutral=100),
                "alternate": counts(draw, evoking=16, adjacent=40, related=60, neutral=280),
            },
            teachers={"T": teacher, "C": Voice()},
            causes=frozenset({1, 3}),
            rate=around(draw, 0.006),
            epochs=6,
        )
