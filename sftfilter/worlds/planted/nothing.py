"""Nothing there: nobody shows the trait."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Nothing(WorldSettings):
    """nobody shows the trait."""

    kind: Literal["nothing"] = "nothing"
    planted: ClassVar[str] = "no trait to study"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        return Scene(
            original=raised(),
            alternate=raised(),
            prompts={
                "original": counts(draw, evoking=60, adjacent=60, related=100, neutral=180),
                "alternate": counts(draw, evoking=40, adjacent=60, related=120, neutral=180),
            },
            teachers={"T": Voice(), "C": Voice()},
            finding="no trait to study",
            rate=around(draw, 0.006),
        )
