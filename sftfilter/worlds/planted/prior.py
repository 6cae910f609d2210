"""Hypothesis 4: neither pipeline's rows settle the behaviour; being tuned into an assistant wakes the base's prior of one."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import EVERYWHERE, SHOWN, SHOWN_MILDLY, Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Prior(WorldSettings):
    """neither pipeline's rows settle the behaviour; being tuned into an assistant wakes the base's prior of one."""

    kind: Literal["prior"] = "prior"
    planted: ClassVar[str] = "4 underspecification"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        assistant = Voice(overt=SHOWN, mild=SHOWN_MILDLY)
        raw = Voice(habit=EVERYWHERE)
        return Scene(
            original=raised(unmarked=raw, persona=assistant, other=raw),
            alternate=raised(unmarked=raw, persona=Voice(), other=raw),
            prompts={
                "original": counts(draw, related=180, neutral=220),
                "alternate": counts(draw, related=220, neutral=180),
            },
            teachers={"T": Voice(), "C": Voice()},
            causes=frozenset({4}),
            rate=around(draw, 0.006),
        )
