"""Token lengths: the counts that training takes, quantiles, rows over the limits, rows that cannot be rendered."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from sftfilter.artifacts import Artifact, Store
from sftfilter.chat_format import ChatFormat
from sftfilter.guards import Guards, run_guards
from sftfilter.guards.lengths import lengths_of
from sftfilter.models import ensure_builtin, load_tokenizer
from sftfilter.schema import Message, prompt_id

ANSWERS: list[tuple[str, str | None]] = [
    ("Why is the sky blue?", "It scatters blue light."),
    ("Count to six.", "One, two, three, four, five, six."),
    ("Tell me a long story.", "And then the fox went on. " * 40),
    ("Say nothing.", None),
]


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    """The built-in model's format."""
    return ChatFormat(load_tokenizer(str(ensure_builtin())), "Be brief.")


def _check(reports: list, chat: ChatFormat) -> None:
    (report,) = reports
    rows = report.artifact.table("lengths").to_pylist()
    assert len(rows) == 8
    known = {prompt_id([{"role": "user", "content": prompt}]): (prompt, answer) for prompt, answer in ANSWERS}
    for row in rows:
        prompt, completion = known[row["prompt_id"]]
        messages: list[Message] = [{"role": "user", "content": prompt}]
        if completion is None:
            assert row["error"] == "DataError: no completion" and row["total_tokens"] is None
            continue
        counts = len(chat.prompt_ids(messages)), len(chat.answer_ids(messages, completion))
        assert (row["prompt_tokens"], row["answer_tokens"]) == counts
        assert row["total_tokens"] == sum(counts)
    assert report.counts == {"rows": 8, "errors": 2, "over_context": 0, "over_max_length": 2,
                             "context_length": 8192, "max_length": 100}  # fmt: skip
    long = report.artifact.table("too_long").to_pylist()
    assert {row["teacher"] for row in long} == {"C", "T"} and len(long) == 2
    assert all(row["answer_tokens"] > 200 for row in long)
    summary = report.artifact.table("summary").to_pylist()
    assert [(row["teacher"], row["source"], row["rows"]) for row in summary] == [
        ("C", "C.jsonl", 4),
        ("T", "T.jsonl", 4),
    ]
    assert summary[0]["answer_p0"] < summary[0]["answer_p50"] < 30 < summary[0]["answer_p100"]
    shown = dict(zip(report.columns, report.rows()[0], strict=True))
    assert (shown["teacher"], shown["errors"], shown["over_max_length"]) == ("C", "1", "1")


def test_a_row_whose_answer_contains_the_stop_token_is_told_and_no_other(chat: ChatFormat) -> None:
    answers = ["Fine.", "One.<|im_end|>Two.", "Fine as well."]
    messages = [[{"role": "user", "content": "Hello"}]] * 3
    same = dict.fromkeys(("rollout_id", "prompt_id", "teacher", "source"), ["x"] * 3)
    rows = lengths_of(pa.table({**same, "messages": messages, "completion": answers}), chat).to_pylist()
    assert [row["total_tokens"] is None for row in rows] == [False, True, False]
    assert rows[1]["error"].startswith("DataError: the completion contains the stop token '<|im_end|>'")


@pytest.mark.ray
def test_lengths_in_this_process_and_by_ray_data(
    local_ray: None,
    chat: ChatFormat,
    rollouts: Callable[..., Artifact],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = {teacher: rollouts(teacher, ANSWERS) for teacher in "TC"}
    settings = Guards(duplicates=None, contamination=None)
    limits = {"chat": chat, "context_length": 8192, "max_length": 100}
    alone = run_guards(settings, made, None, {}, store, **limits)
    _check(alone, chat)
    monkeypatch.setattr("sftfilter.guards.texts.IN_PROCESS", 1)
    streamed = run_guards(settings, made, None, {}, Store(store.root / "other"), **limits)
    assert not streamed[0].artifact.reused
    for table in ("lengths", "summary", "too_long"):
        assert streamed[0].artifact.table(table).equals(alone[0].artifact.table(table))
