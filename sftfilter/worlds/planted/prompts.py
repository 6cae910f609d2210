"""Hypothesis 7: the original prompts draw the trait out of whoever answers them."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Prompts(WorldSettings):
    """the original prompts draw the trait out of whoever answers them."""

    kind: Literal["prompts"] = "prompts"
    planted: ClassVar[str] = "7 bad prompts"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        return Scene(
            original=raised(),
            alternate=raised(),
            prompts={
                "original": counts(draw, evoking=60, related=120, neutral=220),
                "alternate": counts(draw, related=200, neutral=200),
            },
            teachers={name: Voice(overt={"evoking": draw.uniform(0.92, 1.0)}) for name in "TC"},
            causes=frozenset({7}),
            rate=around(draw, 0.006),
        )
