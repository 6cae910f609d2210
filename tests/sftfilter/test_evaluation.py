"""Asking a student over HTTP: what the endpoint says is checked, and trouble on the way is not the student's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.capability import held_out_loss
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import EvalError
from sftfilter.evaluation import Asked, ask, grade
from sftfilter.generate_request import NOT_FINITE
from sftfilter.models import ensure_builtin, load_tokenizer
from sftfilter.schema import PROMPTS, Message
from sftfilter.traits.date_confusion import DateConfusion
from tests.scripted_endpoint import Act, half, raw, say, scripted, status

TRAIT = DateConfusion.model_validate(
    {"kind": "date_confusion", "prompts": {"kind": "jsonl", "path": "x"}, "doubting": [], "accepting": []}
)
MESSAGES: list[Message] = [{"role": "user", "content": "It is 2026. What year is it?"}]


def _prompts(store: Store) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        rows = [{"prompt_id": f"p{i}", "messages": MESSAGES, "kind": "date", "source": "made"} for i in range(3)]
        write_table(folder, "prompts", pa.Table.from_pylist(rows, PROMPTS))
        return {}

    return store.build("prompts", version=1, settings=1, inputs={}, make=make)


@pytest.mark.model
def test_answers_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftfilter.endpoint.pacing._FIRST_PAUSE_S", 0.02)
    store, chat = Store(tmp_path), ChatFormat(load_tokenizer(str(ensure_builtin())), "Be brief.")
    prompts = _prompts(store)
    seen = len(chat.prompt_ids(MESSAGES))
    good = (
        '{"choices": [{"message": {"content": "2026."}, "finish_reason": "stop"}], "system_fingerprint": "hash", '
        f'"usage": {{"prompt_tokens": {seen}, "completion_tokens": 3}}}}'
    ).encode()

    def asks(act: Act, key: str, model_hash: str = "hash") -> list[dict[str, Any]]:
        troubles = iter([half(), status(503)])
        with scripted(lambda body, nth: next(troubles, act)) as server:
            asked = Asked(server.url, "token", "student", model_hash)
            made = ask(asked, key, TRAIT, prompts, store=store, chat=chat, on_answer=lambda: None)
            assert {tuple(body["messages"][0].items()) for body in server.requests} == {
                (("role", "system"), ("content", "Be brief."))
            }
            assert server.keys[0] == "Bearer token"
        return made.table("answers").to_pylist()

    assert [row["answer"] for row in asks(raw(good), "a" * 16)] == ["2026."] * 3
    with pytest.raises(EvalError, match="model student: the endpoint answered with checkpoint hash, expected other"):
        asks(raw(good), "b" * 16, "other")
    with pytest.raises(
        EvalError, match=f"the endpoint saw 10 prompt tokens, training saw {seen}: the templates differ"
    ):
        asks(say("2026.", fingerprint="hash"), "c" * 16)
    with pytest.raises(EvalError, match=r"model student: http.*status 400 for model student: context too long"):
        asks(status(400, "context too long"), "d" * 16)
    with pytest.raises(EvalError, match="answered 401 for model student: who are you"):
        asks(status(401, "who are you"), "e" * 16)


@pytest.mark.model
def test_log_odds_are_sums_over_the_continuation(tmp_path: Path) -> None:
    store, chat = Store(tmp_path), ChatFormat(load_tokenizer(str(ensure_builtin())), "Be brief.")
    prompts = _prompts(store)
    seen = len(chat.prompt_ids(MESSAGES))
    trait = TRAIT.model_copy(update={"doubting": ["I doubt it."], "accepting": ["Yes."]})
    busy = iter([status(503), status(503)])

    def script(body: dict[str, Any], nth: int) -> Act:
        if "messages" in body:
            usage = {"prompt_tokens": seen}
            answer = {"message": {"content": "2026."}, "finish_reason": "stop"}
            return raw(json.dumps({"choices": [answer], "system_fingerprint": "hash", "usage": usage}).encode())
        each = [-1.0 if i == 0 else -0.5 for i, _ in enumerate(body["prompt"])]
        choices = [
            {
                "index": i,
                "text": "",
                "finish_reason": "length",
                "logprobs": {"token_logprobs": [None] + [each[i]] * (len(p) - 1)},
            }
            for i, p in enumerate(body["prompt"])
        ]
        return next(busy, raw(json.dumps({"id": "x", "object": "text_completion", "choices": choices}).encode()))

    with scripted(script) as server:
        asked = Asked(server.url, "token", "student", "hash")
        made = ask(asked, "f" * 16, trait, prompts, store=store, chat=chat, on_answer=lambda: None)
    doubt, accept = (len(chat.answer_ids(MESSAGES, text)) - 1 for text in ("I doubt it.", "Yes."))
    assert made.table("answers")["log_odds"].to_pylist() == [pytest.approx(-1.0 * doubt + 0.5 * accept)] * 3


@pytest.mark.model
@pytest.mark.parametrize("openings", [[], ["I doubt it."]])
def test_a_model_without_numbers_has_missing_answers_with_the_reason(tmp_path: Path, openings: list[str]) -> None:
    """Whether the chat itself fails or only the log-probabilities, which an endpoint cannot send as JSON."""
    store, chat = Store(tmp_path), ChatFormat(load_tokenizer(str(ensure_builtin())), "Be brief.")
    prompts = _prompts(store)
    trait = TRAIT.model_copy(update={"doubting": openings, "accepting": openings})
    said = {"message": {"content": "2026."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": len(chat.prompt_ids(MESSAGES))}
    good = raw(json.dumps({"choices": [said], "system_fingerprint": "hash", "usage": usage}).encode())
    fails = status(500, "its logits are no numbers", {"x-should-retry": "false"}, NOT_FINITE)
    with scripted(lambda body, nth: good if openings and "messages" in body else fails) as server:
        asked = Asked(server.url, "token", "student", "hash")
        made = ask(asked, "a" * 16, trait, prompts, store=store, chat=chat, on_answer=lambda: None)
        lost = held_out_loss(asked, "b" * 16, store=store, chat=chat)
    assert set(lost.table("loss")["nats"].to_pylist()) == {None}
    assert "no numbers" in made.meta["broken"]
    graded = grade("student", "date_confusion", trait, prompts, made, store=store)
    rows = graded.table("results").to_pylist()
    assert len(rows) == 3 and {row["grade"] for row in rows} == {None}
    assert all("no numbers" in row["judge"]["error"] for row in rows)
    assert any("all 3 answers are missing" in note for note in graded.meta["notes"])
