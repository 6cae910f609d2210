"""What a model is asked when its traits are measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sftfilter.capability import InstructionFollowing

if TYPE_CHECKING:
    from sftfilter.capability import Capability
    from sftfilter.traits.contract import TraitSettings


@dataclass(frozen=True)
class AskedOf:
    """Conversations of a trait: prompts by group, and what one model reads and answers in all of them.

    Attributes:
        tokens: read once and written, every answer as long as it may be.
    """

    groups: dict[str, int]
    answers: int
    tokens: float


def prompts_of(trait: TraitSettings, chars_per_token: float) -> AskedOf:
    """A trait's own prompts, or those that its settings name."""
    episodes = {episode.id: episode for episode in trait.episodes()}.values()
    turns = sum(len(episode.turns) for episode in episodes)
    before = sum(len(turn["content"]) for episode in episodes for turn in episode.before)
    chars = before + sum(len(text) for episode in episodes for text in (episode.system or "", *episode.turns))
    tokens = trait.samples * (chars / chars_per_token + turns * trait.max_tokens)
    return AskedOf(dict(Counter(episode.group for episode in episodes)), turns * trait.samples, tokens)


def instructions(capability: Capability | None, chars_per_token: float) -> AskedOf:
    """What a model is asked beside its traits."""
    if capability is None or not capability.instructions:
        return AskedOf({}, 0, 0.0)
    asked = InstructionFollowing(kind="instruction_following", max_tokens=capability.max_tokens)
    return prompts_of(asked, chars_per_token)
