"""Small tables of prompts and rollouts, as the stages before the guards write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.schema import PROMPTS, QUARANTINE, ROLLOUTS, prompt_id, rollout_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "artifacts")


@pytest.fixture
def prompts(store: Store) -> Callable[..., Artifact]:
    """Makes a table of prompts from texts."""

    def make(texts: list[str], source: str = "train.jsonl") -> Artifact:
        def write(folder: Path) -> dict[str, Any]:
            rows = [
                {"prompt_id": prompt_id(messages), "messages": messages, "kind": "", "source": source}
                for messages in ([{"role": "system", "content": "Be brief."}, _user(text)] for text in texts)
            ]
            write_table(folder, "prompts", pa.Table.from_pylist(rows, PROMPTS))
            write_table(folder, "quarantine", QUARANTINE.empty_table())
            return {"read": len(rows), "used": len(rows), "quarantined": 0}

        return store.build("prompts", version=1, settings=texts, inputs={"source": source}, make=write)

    return make


@pytest.fixture
def rollouts(store: Store) -> Callable[..., Artifact]:
    """Makes a teacher's rollouts from (prompt, completion)."""

    def make(teacher: str, answers: list[tuple[str, str | None]]) -> Artifact:
        def write(folder: Path) -> dict[str, Any]:
            rows = []
            for prompt, completion in answers:
                messages = [_user(prompt)]
                identifier = prompt_id(messages)
                rows.append(
                    {
                        "rollout_id": rollout_id(identifier, teacher, completion or ""),
                        "prompt_id": identifier,
                        "messages": messages,
                        "completion": completion,
                        "teacher": teacher,
                        "source": f"{teacher}.jsonl",
                    }
                )
            write_table(folder, "rollouts", pa.Table.from_pylist(rows, ROLLOUTS))
            return {"read": len(rows), "used": len(rows), "quarantined": 0}

        return store.build("rollouts", version=1, settings=answers, inputs={"teacher": teacher}, make=write)

    return make


def _user(text: str) -> Any:
    return {"role": "user", "content": text}
