"""Rollout tables for tests of scorers."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from sftfilter.schema import MESSAGE, RATINGS, prompt_id, rollout_id


def rollout_rows(rows: Sequence[tuple[str, str | None]], ratings: dict[str, float] | None = None) -> pa.Table:
    """Columns that scorers may read, from prompts and completions."""
    turns = [[{"role": "user", "content": prompt}] for prompt, _ in rows]
    ids = [prompt_id(t) for t in turns]  # pyright: ignore[reportArgumentType]
    return pa.table(
        {
            "rollout_id": pa.array(
                [rollout_id(i, "T", str(c), k) for k, (i, (_, c)) in enumerate(zip(ids, rows, strict=True))],
                pa.string(),
            ),
            "prompt_id": pa.array(ids, pa.string()),
            "messages": pa.array(turns, pa.list_(MESSAGE)),
            "completion": pa.array([c for _, c in rows], pa.string()),
            "ratings": pa.array([list((ratings or {}).items())] * len(rows), RATINGS),
        }
    )


def count_word(texts: Sequence[str], word: str = "doubt") -> list[int]:
    """A plugin scorer."""
    return [text.count(word) for text in texts]
