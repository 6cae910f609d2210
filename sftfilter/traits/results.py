"""A graded answer as a row of table `results`, whoever asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftfilter.traits.contract import Episode, Graded, Said, TraitSettings, Turn


def turn_of(episode: Episode, number: int, kept: Mapping[str, Any]) -> Turn:
    """An answer out of what was kept of it."""
    return Turn(episode, number, kept["messages"], Said(kept["thinking"], kept["answer"]))


def result_row(
    trait: TraitSettings, turn: Turn, sample: int, fingerprint: str | None, graded: Graded
) -> dict[str, Any]:
    """A row of table `results` (schema TRAIT_RESULTS) without student, trait name and log-odds."""
    return {
        "prompt_id": turn.episode.id,
        "group": turn.episode.group,
        "sample": sample,
        "turn": turn.number,
        "answer": turn.said.answer,
        "thinking": turn.said.thinking,
        "grade": graded.grade,
        "parse_ok": graded.grade is not None,
        "measures": list(graded.measures.items()),
        "judge": {
            "name": graded.judge,
            "stand_in": graded.stand_in,
            "model": graded.judge_model,
            "score": graded.score,
            "quote": graded.quote,
            "explanation": graded.explanation,
            "error": graded.error,
            "unreachable": graded.unreachable,
        },
        "labels": [(name, str(value)) for name, value in turn.episode.labels.items()],
        "model_hash": fingerprint,
        "max_tokens": trait.max_tokens,
    }
