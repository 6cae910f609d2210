"""Reading prompts: nothing lost silently, and errors that name file, row and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sftfilter.artifacts import Artifact, Store
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError
from sftfilter.models import ensure_builtin, load_tokenizer
from sftfilter.prompts import JsonlPrompts, RowError, load_prompts, messages_of, read_answers


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(load_tokenizer(str(ensure_builtin())), "Be brief.")


def _load(tmp_path: Path, chat: ChatFormat, lines: list[str], budget: float = 0.5, context: int = 2048) -> Artifact:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"\n".join(line.encode("utf-8", "surrogateescape") for line in lines) + b"\n")
    return load_prompts(
        JsonlPrompts(path=str(path)),
        store=Store(tmp_path / "store"),
        chat=chat,
        context_length=context,
        answer_tokens=24,
        error_budget=budget,
    )


GOOD = [json.dumps({"prompt": f"Question {i}?", "kind": "neutral"}) for i in range(8)]


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ('{"prompt": ', "line", "not JSON"),
        ('{"prompt": "a\udcff"}', "line", "not UTF-8"),
        ('["a"]', "line", "expected a JSON object"),
        ('{"text": "a"}', "prompt", "missing"),
        ('{"prompt": "  "}', "prompt", "empty"),
        ('{"prompt": 3}', "prompt", "expected text"),
        ('{"messages": []}', "messages", "expected a list of turns"),
        ('{"messages": [{"role": "wizard", "content": "a"}]}', "messages[0]", "role must be one of"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "messages", "last turn must be the user's"),
        (GOOD[0], "prompt", "duplicate of row 1"),
        (json.dumps({"prompt": "word " * 3000}), "prompt", "exceed the context"),
    ],
)
def test_a_bad_row_is_quarantined_and_the_counts_add_up(
    tmp_path: Path, chat: ChatFormat, line: str, field: str, reason: str
) -> None:
    made = _load(tmp_path, chat, [*GOOD, line])
    assert made.meta == {"read": 9, "used": 8, "quarantined": 1}
    (bad,) = made.table("quarantine").to_pylist()
    assert (bad["row"], bad["field"]) == (9, field)
    assert reason in bad["reason"]


def test_above_the_budget_the_rows_are_named(tmp_path: Path, chat: ChatFormat) -> None:
    with pytest.raises(DataError, match=r"(?s)2 of 10 rows.*prompts\.jsonl, row 9, line: not JSON.*error_budget"):
        _load(tmp_path, chat, [*GOOD, "{", "{"], budget=0.1)


def test_no_rows_and_no_file(tmp_path: Path, chat: ChatFormat) -> None:
    with pytest.raises(DataError, match="no rows"):
        _load(tmp_path, chat, [""])
    with pytest.raises(DataError, match="file not found"):
        JsonlPrompts(path=str(tmp_path / "none")).fingerprint()


def test_conversations_are_kept_and_equal_ones_recognised() -> None:
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ]
    assert messages_of({"messages": turns}) == turns
    with pytest.raises(RowError):
        messages_of({"messages": [*turns[:3], {"role": "user"}]})


def test_empty_completion_and_duplicate_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [{"prompt": "a", "completion": "x"}, {"prompt": "b", "completion": " "}, {"prompt": "a", "completion": "x"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=r"row 2, completion: empty"):
        read_answers(str(path), 0.0)
    good, bad = read_answers(str(path), 0.9)
    assert [len(good), [b["reason"] for b in bad]] == [1, ["empty", "duplicate of row 1"]]


def test_a_changed_file_is_read_again(tmp_path: Path, chat: ChatFormat) -> None:
    first = _load(tmp_path, chat, GOOD)
    assert _load(tmp_path, chat, GOOD).reused
    assert _load(tmp_path, chat, GOOD[:-1]).key != first.key
