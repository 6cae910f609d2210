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
    """Conversations of a trait: prompts by group, and the answers that one model gives in all of them."""

    groups: dict[str, int]
    answers: int


def prompts_of(trait: TraitSettings) -> AskedOf:
    """A trait's own prompts, or those that its settings name."""
    episodes = {episode.id: episode for episode in trait.episodes()}.values()
    turns = sum(len(episode.turns) for episode in episodes)
    return AskedOf(dict(Counter(episode.group for episode in episodes)), turns * trait.samples)


def instructions(capability: Capability | None) -> int:
    """Requests that a model is given beside its traits."""
    if capability is None or not capability.instructions:
        return 0
    return len(InstructionFollowing(kind="instruction_following", max_tokens=capability.max_tokens).episodes())
