"""The whole endpoint: real Ray Serve, real model, the OpenAI client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pyarrow as pa
import pytest
import torch

from serve.host import Endpoint, host
from serve.settings import HostedModel, ServingSettings
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import MachineError
from sftfilter.models import load_model
from sftfilter.scorers.judge import Judge
from tests.serve.conftest import API_KEY, SYSTEM

pytestmark = [pytest.mark.ray, pytest.mark.model]

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[openai.OpenAI]:
    """Without retries: an error is what the endpoint said first."""
    with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0, timeout=120) as opened:
        yield opened


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    wanted = {"model": "base", "messages": QUESTION, "max_tokens": 8, "temperature": 0} | fields
    return client.chat.completions.create(**wanted)


def handle_of_students() -> Any:
    """A handle past HTTP, for the replica's own counts."""
    from ray import serve

    return serve.get_deployment_handle("Students", "tests")


def test_the_key_is_hidden(endpoint: Endpoint) -> None:
    assert endpoint.api_key not in repr(endpoint)
    assert endpoint.base_url.startswith("http://127.0.0.1:")


def test_models_are_listed(client: openai.OpenAI, models: list[HostedModel]) -> None:
    assert [model.id for model in client.models.list()] == [model.id for model in models]


def test_chat_answers_and_says_which_checkpoint_and_how_many_tokens(
    client: openai.OpenAI, models: list[HostedModel], chat_format: ChatFormat
) -> None:
    reply = ask(client, max_tokens=24)
    assert "Paris" in reply.choices[0].message.content
    assert reply.system_fingerprint == models[0].model_hash
    assert reply.usage.prompt_tokens == len(chat_format.prompt_ids(QUESTION))
    assert reply.usage.completion_tokens <= 24
    assert reply.choices[0].finish_reason in ("stop", "length")


def test_streaming_gives_the_same_answer(client: openai.OpenAI) -> None:
    whole = ask(client).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(client, stream=True)]
    assert "".join(pieces) == whole and len(pieces) > 3


def running() -> int:
    return handle_of_students().statistics.remote().result().running


def test_tokens_are_streamed_while_others_are_written_and_leaving_ends_the_work(client: openai.OpenAI) -> None:
    before = handle_of_students().statistics.remote().result()
    with ask(
        client, stream=True, max_tokens=1000, messages=[{"role": "user", "content": "Tell a long story."}]
    ) as stream:
        assert next(stream).choices[0].delta.role == "assistant"
        assert running() == 1
    deadline = time.monotonic() + 60
    while running():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    after = handle_of_students().statistics.remote().result()
    assert 0 < after.tokens - before.tokens < 300


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(client: openai.OpenAI) -> None:
    first, again, other = (
        ask(client, temperature=1, seed=seed, max_tokens=12).choices[0].message.content for seed in (1, 1, 2)
    )
    assert first == again != other


def test_echoed_logprobs_are_those_of_a_plain_forward(
    client: openai.OpenAI, builtin: str, chat_format: ChatFormat
) -> None:
    texts = ["The capital of France is Paris.", "Water boils at one hundred degrees Celsius at sea level."]
    prompts = [chat_format.tokenizer(text).input_ids for text in texts]
    reply = client.completions.create(model="base", prompt=prompts, max_tokens=0, echo=True, logprobs=0)
    model = load_model(builtin, "float32").eval()
    for choice, ids, text in zip(reply.choices, prompts, texts, strict=True):
        assert choice.text == text and choice.logprobs and choice.logprobs.token_logprobs
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, :-1].float()
        expected = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert choice.logprobs.token_logprobs[0] is None
        served = torch.tensor(choice.logprobs.token_logprobs[1:])
        assert torch.allclose(served, expected, atol=1e-3), (served - expected).abs().max()
        assert "".join(choice.logprobs.tokens or []) == text
        assert len(choice.logprobs.text_offset or []) == len(ids)


def test_text_and_token_prompts_are_the_same(client: openai.OpenAI, chat_format: ChatFormat) -> None:
    text = "One, two, three,"
    ids = chat_format.tokenizer(text).input_ids
    written, numbered = (
        client.completions.create(model="base", prompt=prompt, max_tokens=6, temperature=0) for prompt in (text, ids)
    )
    assert written.choices[0].text == numbered.choices[0].text
    assert written.usage and written.usage.prompt_tokens == len(ids)


def test_sixteen_at_once_share_passes(endpoint: Endpoint) -> None:
    students = handle_of_students()
    before = students.statistics.remote().result()

    async def main() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, timeout=120) as client:
            turns: list[Any] = [[{"role": "user", "content": f"Count from {i}."}] for i in range(16)]
            calls = (client.chat.completions.create(model="base", messages=t, max_tokens=8, seed=1) for t in turns)
            return await asyncio.gather(*calls)

    replies = asyncio.run(main())
    after = students.statistics.remote().result()
    assert all(reply.choices[0].message.content for reply in replies)
    assert after.sequences - before.sequences == 16
    assert after.steps - before.steps <= 40  # alone they would take 128
    assert after.largest_step >= 8


def test_a_client_that_hangs_up_ends_the_work(endpoint: Endpoint) -> None:
    students = handle_of_students()
    before = students.statistics.remote().result()
    with (
        openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0, timeout=2) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        ask(client, max_tokens=1000, messages=[{"role": "user", "content": "Tell me a long story."}])
    deadline = time.monotonic() + 20
    while running():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert students.statistics.remote().result().tokens - before.tokens < 500


def test_two_models_answer_together_though_memory_holds_one(endpoint: Endpoint) -> None:
    async def main() -> list[Any]:
        async with openai.AsyncOpenAI(
            base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0, timeout=120
        ) as client:
            names = ["base", "twin", "truncated", "base", "twin", "swapped"]
            calls = (
                client.chat.completions.create(model=m, messages=QUESTION, max_tokens=4, temperature=0) for m in names
            )
            return await asyncio.gather(*calls, return_exceptions=True)

    base, twin, truncated, *others, swapped = asyncio.run(main())
    answers = {reply.choices[0].message.content for reply in (base, twin, *others)}
    assert len(answers) == 1
    for error, name in ((truncated, "truncated"), (swapped, "swapped")):
        assert isinstance(error, openai.InternalServerError)
        assert f"model '{name}': its checkpoint cannot be loaded" in error.message


def test_clients_do_not_repeat_a_broken_model(endpoint: Endpoint) -> None:
    with (
        openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=5, timeout=60) as client,
        pytest.raises(openai.InternalServerError),
    ):
        ask(client, model="truncated")


def test_client_mistakes(client: openai.OpenAI, endpoint: Endpoint) -> None:
    with pytest.raises(openai.NotFoundError, match="base, swapped, truncated, twin"):
        ask(client, model="other")
    with pytest.raises(openai.BadRequestError, match="role"):
        ask(client, messages=[{"role": "robot", "content": "x"}])
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="base", prompt=[1] * 8192, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="wrong"))
    with pytest.raises(openai.APIStatusError) as large:
        client.completions.create(model="base", prompt="x" * (5 << 20))
    assert large.value.status_code == 413


def test_a_second_endpoint_shares_the_proxy_and_needs_no_key_on_loopback(
    endpoint: Endpoint, builtin: str, models: list[HostedModel]
) -> None:
    with host(models[:1], ServingSettings(), builtin, SYSTEM, "", "second") as second:
        assert second.base_url == endpoint.base_url.replace("/tests/", "/second/")
        assert httpx.get(f"{second.base_url}/models").json()["data"][0]["id"] == "base"
    assert httpx.get(f"{second.base_url}/models").status_code == 404
    assert httpx.get(endpoint.base_url.replace("/v1", "/health")).status_code == 200


def test_replicas_that_no_node_can_hold_end_in_an_error(
    endpoint: Endpoint, builtin: str, models: list[HostedModel]
) -> None:
    settings = ServingSettings(cpus_per_replica=64, start_timeout_s=2)
    with (
        pytest.raises(MachineError, match=r"'huge' was not up within serving\.start_timeout_s.*needs 64 CPU"),
        host(models[:1], settings, builtin, SYSTEM, API_KEY, "huge"),
    ):
        pytest.fail("this must not start")


def test_a_student_can_be_the_judge(
    endpoint: Endpoint, models: list[HostedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", API_KEY)
    asked = {"base_url": endpoint.base_url, "model": "base", "api_key_env": "JUDGE_KEY"}
    judge = Judge.model_validate({"kind": "judge", "rubric": "How sad is it?", "endpoint": asked, "max_tokens": 16})
    rows = [{"messages": QUESTION, "completion": text} for text in ("I am sad.", "Paris.", None)]
    scored = judge.load(tmp_path / "prepared", "cpu").score(pa.Table.from_pylist(rows))
    assert scored.error is not None and scored.detail is not None
    for score, error in list(zip(scored.score.to_pylist(), scored.error.to_pylist(), strict=True))[:2]:
        assert (error is None and 0 <= score <= 10) or (score is None and error), (
            "a small judge rarely keeps to the form"
        )
    assert json.loads(scored.detail.to_pylist()[0])["system_fingerprint"] == models[0].model_hash
    assert scored.error.to_pylist()[2] == "no completion to score"
