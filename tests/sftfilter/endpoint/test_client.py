"""The client against a real server that misbehaves in every way the tests could think of."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sftfilter.endpoint.client import BlockingClient, ChatClient, ChatRequest
from sftfilter.endpoint.direct import around_proxies
from sftfilter.endpoint.replies import Answer, Failure
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import EvalError, MachineError
from sftfilter.journal import Journal
from tests.scripted_endpoint import Act, Scripted, drip, drop, half, html, raw, say, scripted, status

SECRET = "sk-very-secret-0123456789"


def _request(text: str, **changes: Any) -> ChatRequest:
    return ChatRequest(
        **{"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, "seed": 1} | changes
    )


def _endpoint(server: Scripted, **changes: Any) -> Endpoint:
    return Endpoint.model_validate({"base_url": server.url, "model": "m", "timeout_s": 5, "retries": 2} | changes)


def _prompt(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftfilter.endpoint.pacing._FIRST_PAUSE_S", 0.02)


def test_every_field_goes_out_and_comes_back() -> None:
    with scripted(lambda body, nth: say("hi\ud800", model="m-2", fingerprint="fp")) as server:
        endpoint = _endpoint(server, extra_body={"top_k": 5}, omit=["seed"])
        found = BlockingClient(endpoint).ask_all([_request("a", top_p=0.9)])
    assert found == [Answer("hi?", "stop", "m-2", "fp", 10, 5)]
    asked = {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 8, "temperature": 0}
    assert server.requests == [asked | {"top_p": 0.9, "top_k": 5}]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """What the environment names for every request."""
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with scripted(lambda body, nth: say("by proxy")) as found:
        monkeypatch.setenv("HTTP_PROXY", found.url.removesuffix("/v1"))
        yield found


def test_an_endpoint_on_this_machine_is_asked_past_the_proxy_and_another_through_it(proxy: Scripted) -> None:
    with scripted(lambda body, nth: say("directly")) as server:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            [found] = BlockingClient(_endpoint(server, base_url=url)).ask_all([_request("a")])
            assert isinstance(found, Answer) and found.text == "directly"
        assert not proxy.requests
        [found] = BlockingClient(_endpoint(server, base_url="http://students.invalid/v1")).ask_all([_request("b")])
    assert isinstance(found, Answer) and found.text == "by proxy" and len(proxy.requests) == 1


def test_an_endpoint_of_our_own_is_never_asked_through_a_proxy(proxy: Scripted) -> None:
    async def main() -> Answer | Failure:
        endpoint = Endpoint(base_url="http://students.invalid/v1", model="m", retries=0)
        client = ChatClient(endpoint, api_key=SECRET, direct=True)
        async with client.openai:
            return await client.ask(_request("a"))

    found = asyncio.run(main())
    assert isinstance(found, Failure) and "no connection" in found.reason and not proxy.requests


@pytest.mark.parametrize("before", [{}, {"NO_PROXY": "10.0.0.1"}, {"no_proxy": "a.b", "NO_PROXY": "c.d"}])
def test_the_environment_of_other_clients_is_put_back(
    proxy: Scripted, monkeypatch: pytest.MonkeyPatch, before: dict[str, str]
) -> None:
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    kept = dict(os.environ)
    with scripted(lambda body, nth: say("directly")) as server, around_proxies(server.url):
        assert httpx.post(server.url, json={}).json()["choices"][0]["message"]["content"] == "directly"
    assert dict(os.environ) == kept
    assert httpx.post("http://students.invalid/v1", json={}).json()["choices"][0]["message"]["content"] == "by proxy"


TROUBLE: dict[str, tuple[Act, str]] = {
    "500": (status(500, "oops"), "status 500: oops"),
    "503": (status(503, "busy"), "status 503: busy"),
    "429": (status(429, "slow down", {"Retry-After": "0"}), "status 429: slow down"),
    "408": (status(408), "status 408"),
    "html": (html(), "not JSON: '<html>"),
    "half": (half(), "not JSON"),
    "no choices": (raw(b'{"choices": []}'), "holds no answer"),
    "error with status 200": (raw(b'{"error": {"message": "upstream died"}}'), "holds no answer: upstream died"),
    "a list": (raw(b"[1, 2]"), "holds no answer"),
    "content is no text": (raw(b'{"choices": [{"message": {"content": 7}}]}'), "holds no answer"),
    "deep": (raw(b"[" * 100_000), "not JSON"),
    "invalid utf-8": (raw(b'{"choices": "\xff"}'), "not JSON"),
    "drop": (drop(), "no connection"),
}


def test_trouble_is_tried_again_and_then_costs_one_row() -> None:
    def script(body: dict[str, Any], nth: int) -> Act:
        kind, _, how = _prompt(body).partition("/")
        return say("mended") if how == "once" and nth else TROUBLE[kind][0] if kind in TROUBLE else say("fine")

    asked = [*(f"{kind}/{how}" for kind in TROUBLE for how in ("once", "always")), "good"]
    with scripted(script) as server:
        found = BlockingClient(_endpoint(server, concurrency=4)).ask_all([_request(a) for a in asked])
    for name, outcome in zip(asked, found, strict=True):
        kind, _, how = name.partition("/")
        times = sum(_prompt(body) == name for body in server.requests)
        if how == "always":
            assert isinstance(outcome, Failure) and TROUBLE[kind][1] in outcome.reason, name
            assert times == 3 and "3 attempts" in outcome.reason
        else:
            assert isinstance(outcome, Answer) and outcome.text == ("mended" if how else "fine"), name
    assert server.most_in_flight <= 4


@pytest.mark.parametrize("act", [say("late", after=3), drip(3)])
def test_an_attempt_ends_on_time(act: Act) -> None:
    with scripted(lambda body, nth: say("fine") if nth else act) as server:
        began = time.monotonic()
        found = BlockingClient(_endpoint(server, timeout_s=0.4)).ask_all([_request("a")])
        assert isinstance(found[0], Answer) and found[0].text == "fine"
        assert time.monotonic() - began < 2.5


def test_a_wish_to_wait_holds_for_every_request() -> None:
    first = iter([status(429, headers={"Retry-After": "1"})])
    with scripted(lambda body, nth: next(first, say("fine"))) as server:
        found = BlockingClient(_endpoint(server, concurrency=1)).ask_all([_request(t) for t in "abc"])
    assert all(isinstance(answer, Answer) for answer in found)
    assert server.times[1] - server.times[0] >= 0.99 and len(server.times) == 4


PERMANENT: list[tuple[Act, str]] = [
    (status(401, f"bad key {SECRET}"), r"answered 401 for model m: bad key \[key\]\nCheck the key in \$TEST_KEY"),
    (status(403), "may use this model"),
    (status(404, "no model m"), "no model m\nCheck `model`, and that `base_url`"),
    (status(402), "no credit left"),
    (status(429, "quota", kind="insufficient_quota"), "no credit left"),
    (status(429, "quota", {"Retry-After": "86400"}), "asks to wait 86400 s, longer than `longest_wait_s`"),
]


@pytest.mark.parametrize(("act", "message"), PERMANENT)
def test_what_a_person_must_mend_stops_at_once(
    act: Act, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEST_KEY", SECRET)

    def script(body: dict[str, Any], nth: int) -> Act:
        return say("slow but paid", after=0.5) if _prompt(body) == "0" else act

    with scripted(script) as server:
        client = BlockingClient(_endpoint(server, concurrency=2, api_key_env="TEST_KEY"), Journal(tmp_path))
        with pytest.raises(EvalError, match=message) as caught:
            client.ask_all([_request(str(i)) for i in range(50)])
    assert server.url in str(caught.value) and SECRET not in str(caught.value)
    assert len(server.requests) <= 3
    assert server.keys[0] == f"Bearer {SECRET}"
    assert len(Journal(tmp_path)) == 1, "the answer under way was waited for and kept"
    assert SECRET not in "".join(file.read_text() for file in tmp_path.iterdir())


def test_a_403_about_one_prompt_costs_its_row_and_one_about_the_key_stops(tmp_path: Path) -> None:
    refusals = {"2": "not this one", "6": "Your input was flagged for violence"}

    def script(body: dict[str, Any], nth: int) -> Act:
        return status(403, refusals[_prompt(body)]) if _prompt(body) in refusals else say("fine")

    asked = [_request(str(i)) for i in range(8)]
    with scripted(script) as server:
        endpoint = _endpoint(server, concurrency=1)
        found = BlockingClient(endpoint, Journal(tmp_path)).ask_all(asked)
        assert [i for i, answer in enumerate(found) if isinstance(answer, Failure)] == [2, 6]
        assert found[2] == Failure("status 403 for model m: not this one") and len(server.requests) == 8
        BlockingClient(endpoint).ask_all([asked[6], asked[0]])  # what it says of itself is believed, first or not
        again = BlockingClient(endpoint, Journal(tmp_path)).ask_all([asked[2], asked[0]])
        assert isinstance(again[0], Failure), "an earlier run's answers show that the key is good"
        with pytest.raises(EvalError, match=r"answered 403 for model m: not this one\nCheck"):
            BlockingClient(endpoint).ask_all([asked[2], asked[0]])
        refusals |= {"2": "this API key was revoked"}
        with pytest.raises(EvalError, match="403 for model m: this API key was revoked"):
            BlockingClient(endpoint, Journal(tmp_path)).ask_all(asked)


def test_what_to_check_is_what_the_key_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "judge.key"
    file.write_text(SECRET)
    file.chmod(0o600)
    with scripted(lambda body, nth: status(401, "who are you")) as server:
        for settings, named in (
            ({"api_key_file": str(file)}, rf"Check the key in the file {file}, and whether it may use"),
            ({}, "Check `api_key_env` and `api_key_file`, neither of which is set, and"),
        ):
            with pytest.raises(EvalError, match=named):
                BlockingClient(_endpoint(server, **settings)).ask_all([_request("a")])


def test_a_refused_row_costs_itself_and_a_refused_job_stops() -> None:
    def script(body: dict[str, Any], nth: int) -> Act:
        return status(400, "too long") if _prompt(body) in server_refuses else say("fine")

    server_refuses = {"1", "5"}
    with scripted(script) as server:
        found = BlockingClient(_endpoint(server)).ask_all([_request(str(i)) for i in range(8)])
        assert [i for i, answer in enumerate(found) if isinstance(answer, Failure)] == [1, 5]
        assert found[1] == Failure("status 400 for model m: too long") and len(server.requests) == 8
        server_refuses |= {str(i) for i in range(100)}
        with pytest.raises(EvalError, match="6 requests in a row to model m got no answer, the last: status 400"):
            BlockingClient(_endpoint(server, give_up_after=6, concurrency=1)).ask_all(
                [_request(str(i)) for i in range(99)]
            )
        assert len(server.requests) == 14


def test_a_server_may_forbid_another_attempt() -> None:
    with scripted(lambda body, nth: status(500, "broken for good", {"x-should-retry": "false"})) as server:
        found = BlockingClient(_endpoint(server)).ask_all([_request("a")])
    assert found == [Failure("status 500: broken for good")] and len(server.requests) == 1


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    endpoint = Endpoint(base_url=url, model="m", retries=1, give_up_after=3)
    with pytest.raises(EvalError, match="3 requests in a row to model m got no answer, the last: no connection"):
        BlockingClient(endpoint).ask_all([_request(str(i)) for i in range(9)])


def test_an_answer_is_paid_for_once(tmp_path: Path) -> None:
    with scripted(lambda body, nth: say(f"answer to {_prompt(body)}", after=0.05)) as server:
        requests = [_request(str(i % 5)) for i in range(20)]
        endpoint = _endpoint(server, concurrency=3)
        first = BlockingClient(endpoint, Journal(tmp_path)).ask_all(requests)
        assert len(server.requests) == 5, "equal requests under way are one request"
        assert server.most_in_flight == 3
        again = BlockingClient(endpoint, Journal(tmp_path)).ask_all(requests)
        assert again == first and len(server.requests) == 5
        BlockingClient(endpoint, Journal(tmp_path)).ask_all([_request("0", seed=2), _request("0", temperature=1)])
        assert len(server.requests) == 7


def test_a_seed_that_is_not_sent_still_tells_draws_apart(tmp_path: Path) -> None:
    with scripted(lambda body, nth: say(f"draw {nth}")) as server:
        requests = [_request("a", seed=seed, temperature=1) for seed in (1, 2, 2, 3)]
        client = BlockingClient(_endpoint(server, omit=["seed"], concurrency=1), Journal(tmp_path))
        found = client.ask_all(requests)
        assert [answer.text for answer in found if isinstance(answer, Answer)] == [
            "draw 0",
            "draw 1",
            "draw 1",
            "draw 2",
        ]
        assert client.ask_all(requests) == found and len(server.requests) == 3
        assert not any("seed" in body for body in server.requests)


def test_limits_hold() -> None:
    with scripted(lambda body, nth: say("fine")) as server:
        client = BlockingClient(_endpoint(server, requests_per_minute=600))
        began = time.monotonic()
        client.ask_all([_request(str(i)) for i in range(8)])
        assert time.monotonic() - began >= 0.7


def test_a_missing_key_is_named() -> None:
    with pytest.raises(MachineError, match="environment variable NO_SUCH_KEY"):
        ChatClient(Endpoint(base_url="https://host/v1", model="m", api_key_env="NO_SUCH_KEY"))


def test_the_key_of_another_service_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with scripted(lambda body, nth: say("fine")) as server:
        BlockingClient(_endpoint(server)).ask_all([_request("a")])
    assert SECRET not in server.keys[0]


def test_asynchronous_use_and_a_key_given_directly() -> None:
    async def ask(server: Scripted) -> Answer | Failure:
        return await ChatClient(_endpoint(server), api_key=SECRET).ask(_request("a"))

    with scripted(lambda body, nth: say(json.dumps({"echo": SECRET}))) as server:
        found = asyncio.run(ask(server))
    assert server.keys == [f"Bearer {SECRET}"]
    assert isinstance(found, Answer) and found.text == '{"echo": "[key]"}'
