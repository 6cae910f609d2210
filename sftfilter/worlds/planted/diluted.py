"""No subset to find: T shows the trait on every kind of prompt, and the filter flags rows at random."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import EVERYWHERE, Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Diluted(WorldSettings):
    """T shows the trait on every kind of prompt, and the filter flags rows at random."""

    kind: Literal["diluted"] = "diluted"
    planted: ClassVar[str] = "dilution only"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        often = draw.uniform(0.75, 0.95)
        return Scene(
            original=raised(),
            alternate=raised(),
            prompts={
                "original": counts(draw, evoking=60, adjacent=100, related=100, neutral=140),
                "alternate": counts(draw, evoking=60, adjacent=100, related=100, neutral=140),
            },
            teachers={"T": Voice(overt=dict.fromkeys(EVERYWHERE, often)), "C": Voice()},
            causes=frozenset({1}),
            finding="dilution only",
            noise=draw.uniform(0.12, 0.17),
            rate=around(draw, 0.006),
        )
