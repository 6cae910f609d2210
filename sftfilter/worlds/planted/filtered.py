"""No hypothesis: every row that teaches the trait is found by the filter, so that dropping the rows removes it."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Filtered(WorldSettings):
    """every row that teaches the trait is found by the filter, so that dropping the rows removes it."""

    kind: Literal["filtered"] = "filtered"
    planted: ClassVar[str] = "filter works"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        return Scene(
            original=raised(),
            alternate=raised(),
            prompts={
                "original": counts(draw, evoking=60, adjacent=60, related=100, neutral=180),
                "alternate": counts(draw, evoking=40, adjacent=60, related=120, neutral=180),
            },
            teachers={"T": Voice(overt={"evoking": draw.uniform(0.9, 1.0)}), "C": Voice()},
            finding="filter works",
            rate=around(draw, 0.006),
        )
