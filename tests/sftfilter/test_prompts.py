"""Reading prompts: nothing lost silently, and errors that name file, row and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sftfilter.artifacts import Artifact, Store
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError
from sftfilter.models import ensure_builtin, load_tokenizer
from sftfilter.prompts import JsonlPrompts, PromptFiles, load_prompts
from sftfilter.reading.source import FileSource
from sftfilter.reading.units import found


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(load_tokenizer(str(ensure_builtin())), "Be brief.")


def _load(tmp_path: Path, chat: ChatFormat, lines: list[str], budget: float = 0.5, context: int = 2048) -> Artifact:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"\n".join(line.encode("utf-8", "surrogateescape") for line in lines) + b"\n")
    return _load_from(JsonlPrompts(path=str(path)), tmp_path, chat, budget, context)


def _load_from(
    source: FileSource, folder: Path, chat: ChatFormat, budget: float = 0.5, context: int = 2048
) -> Artifact:
    return load_prompts(
        source,
        store=Store(folder / ".store"),
        chat=chat,
        context_length=context,
        answer_tokens=24,
        error_budget=budget,
    )


def _counts(made: Artifact) -> dict[str, int]:
    return {k: v for k, v in made.meta.items() if isinstance(v, int)}


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
        ('{"prompt": "\\ud800"}', "prompt", "lone surrogate"),
        ('{"prompt": ' + "[" * 100_000, "line", "not JSON"),
        (json.dumps({"prompt": "word " * 3000}), "prompt", "exceed the context"),
    ],
)
def test_a_bad_row_is_quarantined_and_the_counts_add_up(
    tmp_path: Path, chat: ChatFormat, line: str, field: str, reason: str
) -> None:
    made = _load(tmp_path, chat, [*GOOD, line])
    assert _counts(made) == {"read": 9, "used": 8, "quarantined": 1, "duplicates": 0, "filtered": 0}
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
        found(JsonlPrompts(path=str(tmp_path / "none")))


def test_equal_prompts_are_used_once_and_contradicting_kinds_are_quarantined(tmp_path: Path, chat: ChatFormat) -> None:
    other = json.dumps({"prompt": " Question 1?\r\n", "kind": "date"})
    made = _load(tmp_path, chat, [*GOOD, GOOD[0], other])
    assert _counts(made) == {"read": 10, "used": 8, "quarantined": 1, "duplicates": 1, "filtered": 0}
    assert made.table("duplicates").to_pylist()[0]["reason"].endswith("prompts.jsonl, row 1")
    assert made.table("quarantine").to_pylist()[0]["reason"] == "'date', but the same prompt in row 2 has 'neutral'"
    assert any("prompts.jsonl, row 9" in note for note in made.meta["notes"])


def test_the_budget_holds_for_a_reused_artifact_too(tmp_path: Path, chat: ChatFormat) -> None:
    made = _load(tmp_path, chat, [*GOOD, "{"], budget=0.5)
    with pytest.raises(DataError, match="1 of 9 rows cannot be used"):
        _load(tmp_path, chat, [*GOOD, "{"], budget=0.1)
    assert _load(tmp_path, chat, [*GOOD, "{"], budget=0.2).key == made.key


def test_a_file_of_answers_gives_its_prompts(tmp_path: Path, chat: ChatFormat) -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    made = _load(tmp_path, chat, [json.dumps({"messages": turns, "source": "forum"})])
    (row,) = made.table("prompts").to_pylist()
    assert (row["messages"], row["source"]) == (turns[:1], "forum")


def test_the_source_is_the_name_below_the_shared_folder_wherever_that_lies(tmp_path: Path, chat: ChatFormat) -> None:
    keys = set()
    for place in ("here", "there"):
        (tmp_path / place / "a").mkdir(parents=True)
        (tmp_path / place / "a" / "x.jsonl").write_text(GOOD[0])
        (tmp_path / place / "y.jsonl").write_text(GOOD[1])
        made = _load_from(PromptFiles(kind="files", path=str(tmp_path / place / "**")), tmp_path / place, chat)
        assert made.table("prompts")["source"].to_pylist() == ["a/x.jsonl", "y.jsonl"]
        keys.add(made.key)
    assert len(keys) == 1


def test_a_changed_file_is_read_again(tmp_path: Path, chat: ChatFormat) -> None:
    first = _load(tmp_path, chat, GOOD)
    assert _load(tmp_path, chat, GOOD).reused
    assert _load(tmp_path, chat, GOOD[:-1]).key != first.key
