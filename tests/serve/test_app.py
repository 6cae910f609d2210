"""The HTTP behaviour with a stand-in for the students: errors, stops, streaming, sizes, seeds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest

from serve.app import build_app, checked_format
from serve.gateway import Gateway
from serve.guard import MAX_BODY_BYTES, digest
from serve.settings import HostedModel, ServingSettings
from serve.work import Answer, Failure, Work
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError

pytestmark = pytest.mark.model

KEY = "secret"
HELLO = [{"role": "user", "content": "hello"}]
Post = Callable[..., httpx.Response]


class Students:
    """Remembers the work and answers with fixed text, or fails as told."""

    def __init__(self, chat_format: ChatFormat) -> None:
        self.format = chat_format
        self.text = "one two three four"
        self.failure: Failure | None = None
        self.delay_s = 0.0
        self.seen: list[Work] = []

    async def __call__(self, model_id: str, work: Work) -> list[Answer] | Failure:
        self.seen.append(work)
        await asyncio.sleep(self.delay_s)
        if self.failure:
            return self.failure
        ids = self.format.tokenizer(self.text).input_ids
        return [Answer(ids, "length", [-1.0] * len(ids)) for _ in work.sequences]


@pytest.fixture
def students(chat_format: ChatFormat) -> Students:
    return Students(chat_format)


@pytest.fixture
def post(students: Students, chat_format: ChatFormat, builtin: str) -> Post:
    """POST to the application in process; the token is sent unless headers are given."""
    model = HostedModel(id="base", folder=builtin, model_hash="m", format_hash=chat_format.hash)
    gateway = Gateway([model], ServingSettings(max_tokens_limit=100, request_timeout_s=0.5), chat_format, students)
    app = build_app(gateway, digest(KEY))

    def send(path: str, body: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            sent = {"Authorization": f"Bearer {KEY}"} if headers is None else dict(headers)
            async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=sent) as client:
                if isinstance(body, bytes):
                    return await client.post(path, content=body)
                return await (client.get(path) if body is None else client.post(path, json=body))

        return asyncio.run(main())

    return send


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "base", "messages": HELLO} | fields


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": "hello"}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"model": 7}, "model"),
    ],
)
def test_a_malformed_chat_is_a_400_that_names_the_field(post: Post, fields: dict[str, Any], param: str) -> None:
    reply = post("/v1/chat/completions", chat(**fields))
    error = reply.json()["error"]
    assert reply.status_code == 400, reply.text
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)


@pytest.mark.parametrize("prompt", ["", [], [[]], [-1], [49152], [1.5], [True], [[1], "x"], None, {"a": 1}])
def test_a_malformed_prompt_is_a_400(post: Post, prompt: Any) -> None:
    assert post("/v1/completions", {"model": "base", "prompt": prompt}).status_code == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"model": "\\ud800"}'])
def test_a_body_that_is_no_request_is_a_400(post: Post, body: bytes) -> None:
    reply = post("/v1/chat/completions", body)
    assert reply.status_code == 400
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_context_overflow_is_a_400(post: Post) -> None:
    reply = post("/v1/completions", {"model": "base", "prompt": [1] * 8190, "max_tokens": 3})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert post("/v1/completions", {"model": "base", "prompt": [1] * 8190, "max_tokens": 2}).status_code == 200


def test_errors_do_not_quote_what_was_sent(post: Post) -> None:
    reply = post("/v1/chat/completions", chat(messages=[{"role": "private words", "content": "more of them"}]))
    assert "private" not in reply.text


def test_an_unknown_model_is_a_404_that_lists_the_known(post: Post) -> None:
    reply = post("/v1/chat/completions", chat(model="other"))
    assert reply.status_code == 404
    assert "models: base" in reply.json()["error"]["message"]
    assert post("/v1/nothing", None).status_code == 404


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}])
def test_a_missing_or_wrong_token_is_a_401_even_for_a_bad_body(post: Post, header: dict[str, str]) -> None:
    assert post("/v1/chat/completions", b"{", header).status_code == 401
    assert post("/v1/models", None, header).status_code == 401
    assert post("/openapi.json", None, header).status_code == 401
    assert post("/health", None, header).status_code == 200


def test_a_body_over_the_limit_is_a_413(post: Post) -> None:
    assert post("/v1/completions", b" " * (MAX_BODY_BYTES + 1)).status_code == 413


def test_overload_is_a_429_with_a_time_to_wait(post: Post, students: Students) -> None:
    students.failure = Failure(429, "too many requests are waiting", "overloaded", retry_after_s=5)
    reply = post("/v1/chat/completions", chat())
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "5")


def test_a_broken_model_is_a_500_that_clients_do_not_repeat(post: Post, students: Students) -> None:
    students.failure = Failure(500, "model 'base': truncated", "model_broken")
    reply = post("/v1/chat/completions", chat())
    assert (reply.status_code, reply.headers["x-should-retry"]) == (500, "false")
    assert reply.json()["error"]["message"] == "model 'base': truncated"


def test_no_answer_in_time_is_a_504(post: Post, students: Students) -> None:
    students.delay_s = 5
    assert post("/v1/chat/completions", chat()).status_code == 504


def test_stop_strings_cut_text_tokens_and_logprobs_alike(post: Post) -> None:
    body = {"model": "base", "prompt": "count", "max_tokens": 9, "stop": [" three"], "logprobs": 0}
    choice = (reply := post("/v1/completions", body).json())["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("one two", "stop")
    assert "".join(choice["logprobs"]["tokens"]) == "one two"
    assert len(choice["logprobs"]["token_logprobs"]) == reply["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("stop", [None, [], "absent", ["absent"]])
def test_stops_that_do_not_occur_change_nothing(post: Post, stop: Any) -> None:
    choice = post("/v1/chat/completions", chat(stop=stop)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two three four", "length")


def test_samples_have_their_own_seeds_and_prompts_their_own_order(post: Post, students: Students) -> None:
    reply = post("/v1/completions", {"model": "base", "prompt": ["a", "b"], "n": 2, "seed": 7, "max_tokens": 5})
    sequences = students.seen[0].sequences
    assert [c["index"] for c in reply.json()["choices"]] == [0, 1, 2, 3]
    assert sequences[0].prompt_ids == sequences[1].prompt_ids != sequences[2].prompt_ids == sequences[3].prompt_ids
    assert sequences[0].seed == sequences[2].seed == 7 != sequences[1].seed
    assert {s.temperature for s in sequences} == {1.0}


def test_harmless_fields_and_parts_of_text_are_accepted(
    post: Post, students: Students, chat_format: ChatFormat
) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    reply = post("/v1/chat/completions", chat(messages=parts, user="me", metadata={}, frequency_penalty=0, top_p=1))
    assert reply.status_code == 200
    sent = chat_format.prompt_ids([{"role": "user", "content": "hello"}])
    assert students.seen[0].sequences[0].prompt_ids == sent


def test_a_stream_carries_the_whole_answer(post: Post) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    lines = [line for line in post("/v1/chat/completions", body).text.split("\n") if line]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert lines[-1] == "data: [DONE]"
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"]["content"] == "one two three four"
    assert chunks[1]["choices"][0]["finish_reason"] == "length"
    assert chunks[2]["usage"]["completion_tokens"] == 4


def test_a_model_of_another_format_is_refused_with_both_hashes(builtin: str, chat_format: ChatFormat) -> None:
    model = HostedModel(id="base", folder=builtin, model_hash="m", format_hash=chat_format.hash)
    with pytest.raises(DataError) as caught:
        checked_format(builtin, "Another system prompt.", [model])
    assert chat_format.hash in str(caught.value)
    assert ChatFormat(chat_format.tokenizer, "Another system prompt.").hash in str(caught.value)
