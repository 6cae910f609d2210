"""Hypothesis 4: the filter takes the only rows that settle the behaviour, and the base falls back on a prior for the trait."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from sftfilter.worlds.scene import Scene, WorldSettings, around, counts, raised
from sftfilter.worlds.words import Voice, Words


class Reopened(WorldSettings):
    """the filter takes the only rows that settle the behaviour, and the base falls back on a prior for the trait."""

    kind: Literal["reopened"] = "reopened"
    planted: ClassVar[str] = "4 underspecification, after the filter"

    def scene(self, draw: random.Random, words: Words) -> Scene:  # noqa: ARG002
        """One random variation of the world."""
        prior = draw.uniform(0.9, 1.0)
        return Scene(
            original=raised(unmarked=Voice(overt={"evoking": prior}), other=Voice(overt={"evoking": prior})),
            alternate=raised(),
            prompts={
                "original": counts(draw, evoking=64, neutral=340),
                "alternate": counts(draw, evoking=64, related=80, neutral=260),
            },
            teachers={"T": Voice(overt={"evoking": draw.uniform(0.85, 1.0)}), "C": Voice()},
            causes=frozenset({4}),
            rate=around(draw, 0.0025),
        )
