"""The HTTP behaviour with a stand-in for the students: errors, stops, streaming, sizes, seeds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest

from serve.app import build_app
from serve.deployments import checked_format
from serve.engines.running import collect
from serve.gateway import Gateway
from serve.guard import MAX_BODY_BYTES, Guard, digest
from serve.settings import HostedModel, ServingSettings
from serve.work import Answer, Failure, Piece, Work, whole
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError
from sftfilter.generate_request import TokenScore

pytestmark = pytest.mark.model

KEY = "secret"
HELLO = [{"role": "user", "content": "hello"}]
Post = Callable[..., httpx.Response]


class Students:
    """Remembers the work and answers with fixed text, a token at a time, or fails as told."""

    def __init__(self, chat_format: ChatFormat) -> None:
        self.format = chat_format
        self.text = "one two three four"
        self.failure: Failure | None = None
        self.fails_after = 0
        self.delay_s = 0.0
        self.seen: list[Work] = []
        self.closed = 0
        self.ends = False

    async def whole(self, copy_id: str, work: Work) -> list[Answer] | Failure:
        pieces = await collect(self.pieces(copy_id, work))
        return pieces if isinstance(pieces, Failure) else whole(len(work.sequences), pieces)

    async def pieces(self, copy_id: str, work: Work) -> AsyncIterator[list[Piece] | Failure]:
        self.seen.append(work)
        ids = self.format.tokenizer(self.text).input_ids
        try:
            await asyncio.sleep(self.delay_s)
            if work.score_prompts is not None:
                yield [
                    Piece(i, prompt_scores=[_score(t, work.score_prompts) for t in s.prompt_ids[1:]])
                    for i, s in enumerate(work.sequences)
                ]
            for k, token in enumerate(ids):
                if self.failure and k >= self.fails_after:
                    yield self.failure
                    return
                last = "length" if k == len(ids) - 1 and not self.ends else None
                yield [
                    Piece(i, [token], [_score(token, s.logprobs)] if s.logprobs is not None else [], None, last)
                    for i, s in enumerate(work.sequences)
                ]
            if self.ends:
                stop = self.format.stop_id
                yield [
                    Piece(i, [], [_score(stop, s.logprobs)] if s.logprobs is not None else [], None, "stop", stop)
                    for i, s in enumerate(work.sequences)
                ]
        finally:
            self.closed += 1


def _score(token: int, count: int) -> TokenScore:
    return TokenScore(-1.0, tuple((token + k, -1.0 - k) for k in range(count)))


@pytest.fixture
def students(chat_format: ChatFormat) -> Students:
    return Students(chat_format)


@pytest.fixture
def post(students: Students, chat_format: ChatFormat, builtin: str) -> Post:
    """POST to the application in process; the token is sent unless headers are given."""
    model = HostedModel(id="base", folder=builtin, model_hash="m", format_hash=chat_format.hash)
    gateway = Gateway([model], ServingSettings(max_tokens_limit=100, request_timeout_s=0.5), chat_format, students)
    app = build_app(gateway, [digest(KEY), digest("another")])

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
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
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
    assert post("/metrics", None, header).status_code == 401
    assert post("/tokenize", {"prompt": "x"}, header).status_code == 401
    for open_to_all in ("/health", "/docs", "/openapi.json"):
        assert post(open_to_all, None, header).status_code == 200


def test_any_of_several_tokens_will_do(post: Post) -> None:
    assert post("/v1/models", None, {"Authorization": "bearer another"}).status_code == 200


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


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in reply.text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_chat_is_streamed_as_its_tokens_come(post: Post) -> None:
    body = chat(stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2, n=2)
    chunks = events(post("/v1/chat/completions", body))
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert {c["system_fingerprint"] for c in chunks} == {"m"} and len({c["id"] for c in chunks}) == 1
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 8
    for index in range(2):
        own = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant" and "role" not in own[1]["delta"]
        assert [c["delta"].get("content") for c in own] == ["one", " two", " three", " four"]
        assert [c["finish_reason"] for c in own] == [None, None, None, "length"]
        entries = [entry for c in own for entry in c["logprobs"]["content"]]
        assert "".join(entry["token"] for entry in entries) == "one two three four"
        assert all(bytes(e["bytes"]).decode() == e["token"] and len(e["top_logprobs"]) == 2 for e in entries)


def test_a_stream_ends_at_its_stop_string_and_ends_the_work(post: Post, students: Students) -> None:
    chunks = events(post("/v1/chat/completions", chat(stream=True, stop=["two t"])))
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "one "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert students.closed == 1


def test_a_character_is_streamed_whole(post: Post, students: Students) -> None:
    students.text = "naïve 日本 🙂!"
    body = {"model": "base", "prompt": "x", "max_tokens": 50, "stream": True, "echo": True, "logprobs": 1}
    choices = [c["choices"][0] for c in events(post("/v1/completions", body))]
    assert "".join(c["text"] for c in choices) == "x" + students.text
    assert not any("\ufffd" in c["text"] for c in choices)
    tokens = [token for c in choices for token in c["logprobs"]["tokens"]]
    assert len(tokens) == 1 + len(students.format.tokenizer(students.text).input_ids)
    assert choices[0]["logprobs"]["token_logprobs"] == [None]
    assert any(token.startswith("bytes:\\x") for token in tokens)


def test_what_fails_before_the_first_token_is_an_ordinary_error_and_later_an_event(
    post: Post, students: Students
) -> None:
    students.failure = Failure(503, "gone", "unavailable", retry_after_s=1)
    reply = post("/v1/chat/completions", chat(stream=True))
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    students.fails_after = 2
    lines = [line for line in post("/v1/chat/completions", chat(stream=True)).text.split("\n") if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["message"] == "gone"


def test_chat_logprobs(post: Post) -> None:
    choice = post("/v1/chat/completions", chat(logprobs=True, top_logprobs=3)).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == ["one", " two", " three", " four"]
    assert all(len(entry["top_logprobs"]) == 3 and entry["logprob"] == -1.0 for entry in entries)
    assert post("/v1/chat/completions", chat()).json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_completions_list_and_count_the_stop_token_and_chats_do_not(
    post: Post, students: Students, chat_format: ChatFormat, stream: bool
) -> None:
    students.ends = True
    flags = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    body = {"model": "base", "prompt": "one two", "echo": True, "logprobs": 2, "max_tokens": 9} | flags
    for echo, before in ((True, 2), (False, 0)):
        reply = post("/v1/completions", body | {"echo": echo})
        replies = events(reply) if stream else [reply.json()]
        choices = [choice for one in replies for choice in one["choices"]]
        lists = {k: [v for c in choices for v in c["logprobs"][k]] for k in choices[0]["logprobs"]}
        text = "".join(c["text"] for c in choices)
        assert text == ("one two" if echo else "") + students.text and choices[-1]["finish_reason"] == "stop"
        assert "".join(lists["tokens"]) == text + str(chat_format.tokenizer.decode([chat_format.stop_id]))
        assert {k: len(v) for k, v in lists.items()} == dict.fromkeys(lists, before + 5)
        assert lists["token_logprobs"][-1] == -1.0 and replies[-1]["usage"]["completion_tokens"] == 5
        assert stream or lists["text_offset"][-1] == len(text)
    reply = post("/v1/completions", body | {"stop": [" four"]})
    choices = [c for one in (events(reply) if stream else [reply.json()]) for c in one["choices"]]
    assert [token for c in choices for token in c["logprobs"]["tokens"]][-1] == " three"

    reply = post("/v1/chat/completions", chat(logprobs=True, **flags))
    replies = events(reply) if stream else [reply.json()]
    entries = [e for one in replies for c in one["choices"] for e in (c["logprobs"] or {})["content"]]
    assert "".join(entry["token"] for entry in entries) == students.text
    assert replies[-1]["usage"]["completion_tokens"] == 4


def test_echoed_prompts_are_scored_with_alternatives(post: Post) -> None:
    body = {"model": "base", "prompt": "one two", "echo": True, "logprobs": 2, "max_tokens": 4}
    choice = post("/v1/completions", body).json()["choices"][0]
    scored = choice["logprobs"]
    assert choice["text"] == "one twoone two three four" and "".join(scored["tokens"]) == choice["text"]
    assert scored["token_logprobs"] == [None, *[-1.0] * 5]
    assert scored["top_logprobs"][0] is None and scored["top_logprobs"][1][" two"] == -1.0
    assert scored["text_offset"] == [0, 3, 7, 10, 14, 20]


def test_without_a_seed_no_two_requests_draw_alike(post: Post, students: Students) -> None:
    for seed in (None, None, 5, 5):
        post("/v1/chat/completions", chat(seed=seed))
    first, second, third, fourth = (work.sequences[0].seed for work in students.seen)
    assert first != second and third == fourth == 5


def test_tokens_there_and_back(post: Post, chat_format: ChatFormat) -> None:
    found = post("/tokenize", {"model": "base", "prompt": "One, two"}).json()
    assert found["tokens"] == chat_format.tokenizer("One, two").input_ids and found["count"] == len(found["tokens"])
    assert post("/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": "One, two"}
    rendered = post("/v1/tokenize", {"messages": HELLO}).json()["tokens"]
    assert rendered == chat_format.prompt_ids([{"role": "user", "content": "hello"}])
    info = post("/tokenizer_info", None).json()
    assert info["chat_template"] == chat_format.tokenizer.chat_template and info["eos_token"]
    for wrong in ({}, {"prompt": "x", "messages": HELLO}, {"prompt": "x", "model": "other"}, {"prompt": 1}):
        assert post("/tokenize", wrong).status_code in (400, 404)
    assert post("/detokenize", {"tokens": [10**9]}).status_code == 400


def test_one_model_can_be_looked_up(post: Post) -> None:
    assert post("/v1/models/base", None).json()["model_hash"] == "m"
    assert post("/v1/models/other", None).status_code == 404


def test_metrics_count_without_quoting_anybody(post: Post) -> None:
    post("/v1/chat/completions", chat())
    post("/v1/chat/completions", chat(model="a secret name"))
    post("/v1/a-secret-path", None)
    page = post("/metrics", None).text
    assert 'sftfilter_requests_total{route="/v1/chat/completions",status="200"} 1.0' in page
    assert 'sftfilter_requests_total{route="/v1/chat/completions",status="404"} 1.0' in page
    assert 'sftfilter_tokens_total{kind="completion",model="base"} 4.0' in page
    assert "secret" not in page


def test_the_pages_need_no_network(post: Post) -> None:
    page = post("/docs", None).text
    assert "/v1/chat/completions" in page and "top_logprobs" in page
    assert "http://" not in page and "https://" not in page and "<script" not in page
    paths = post("/openapi.json", None).json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/tokenize", "/metrics", "/health"} <= set(paths)


def test_prompts_are_never_logged(post: Post, students: Students, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    students.failure = Failure(500, "broken", "model_broken")
    secret = [{"role": "user", "content": "a very private matter"}]
    post("/v1/chat/completions", chat(messages=secret))
    students.format = None  # pyright: ignore[reportAttributeAccessIssue]
    assert post("/v1/chat/completions", chat(messages=secret)).status_code == 500
    assert "private" not in caplog.text and "request failed with" in caplog.text


def through_guard(messages: list[dict[str, Any]], **options: Any) -> list[int]:
    """Statuses that the guard alone gives to requests whose body arrives like this; its application says 200."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def main() -> list[int]:
        guard, statuses = Guard(app, **options), []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        for _ in range(1):
            left = list(messages)

            async def receive(left: list[dict[str, Any]] = left) -> dict[str, Any]:
                if not left:
                    await asyncio.sleep(10)
                return left.pop(0)

            scope = {"type": "http", "path": "/v1/models", "root_path": "", "headers": []}
            await guard(scope, receive, send)
        return statuses

    return asyncio.run(main())


def test_a_client_that_sends_too_slowly_is_answered_408() -> None:
    part = {"type": "http.request", "body": b"{", "more_body": True}
    assert through_guard([part], body_timeout_s=0.05) == [408]


def test_a_client_that_leaves_while_it_sends_is_not_answered() -> None:
    part = {"type": "http.request", "body": b"{", "more_body": True}
    assert through_guard([part, {"type": "http.disconnect"}]) == []


def test_each_token_has_a_rate(students: Students, chat_format: ChatFormat, builtin: str) -> None:
    model = HostedModel(id="base", folder=builtin, model_hash="m", format_hash=chat_format.hash)
    gateway = Gateway([model], ServingSettings(requests_per_minute=3), chat_format, students)
    app = build_app(gateway, [digest("one"), digest("two")])

    async def main() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            keys = ["one"] * 5 + ["two"]
            return [await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}) for key in keys]

    replies = asyncio.run(main())
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429, 429, 200]
    assert 15 <= int(replies[3].headers["Retry-After"]) <= 20
    assert replies[3].json()["error"]["type"] == "rate_limit_error"


def test_a_model_of_another_format_is_refused_with_both_hashes(builtin: str, chat_format: ChatFormat) -> None:
    model = HostedModel(id="base", folder=builtin, model_hash="m", format_hash=chat_format.hash)
    with pytest.raises(DataError) as caught:
        checked_format(builtin, "Another system prompt.", [model])
    assert chat_format.hash in str(caught.value)
    assert ChatFormat(chat_format.tokenizer, "Another system prompt.").hash in str(caught.value)
