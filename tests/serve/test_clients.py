"""Clients as they are, unmodified, over real HTTP: openai, Inspect, lm-eval, schemathesis; and badly behaved sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import yaml

from serve.host import Endpoint, host
from serve.settings import HostedModel, ServingSettings
from sftfilter.chat_format import ChatFormat
from tests.serve.conftest import API_KEY, SYSTEM
from tests.serve.tiny import TinyStudents

pytestmark = [pytest.mark.ray, pytest.mark.model]

APP = "clients"
SPREAD = "spread"
HELLO: Any = [{"role": "user", "content": "hello"}]
HEADERS = {"Authorization": f"Bearer {API_KEY}"}


# A request's body may take a second and a half.
SETTINGS = ServingSettings(port=0, dtype="float32", models_in_memory=2, body_timeout_s=1.5, threads=1)


@pytest.fixture(scope="module")
def students(cluster: None, tiny: TinyStudents, ending: HostedModel) -> Iterator[Endpoint]:
    """Small students behind a real endpoint of one replica, which answers HTTP itself."""
    with host([*tiny.all, ending], SETTINGS, tiny.folder, SYSTEM, API_KEY, APP) as running:
        yield running


@pytest.fixture(scope="module")
def spread(cluster: None, tiny: TinyStudents) -> Iterator[Endpoint]:
    """The same students on two replicas behind an ingress."""
    settings = SETTINGS.model_copy(update={"min_replicas": 2, "max_replicas": 2, "cpus_per_replica": 0.25})
    with host(tiny.all, settings, tiny.folder, SYSTEM, API_KEY, SPREAD) as running:
        yield running


@pytest.fixture(params=["students", "spread"])
def either(request: pytest.FixtureRequest) -> Endpoint:
    """Both ways of hosting, one after the other."""
    return request.getfixturevalue(request.param)


def app_of(endpoint: Endpoint) -> str:
    """Name of the Serve application."""
    return urlsplit(endpoint.base_url).path.split("/")[1]


def root(students: Endpoint) -> str:
    return students.base_url.removesuffix("/v1")


def greedy(students: Endpoint, model: str, text: str = "hello", **fields: Any) -> str:
    """What a model answers, by plain HTTP."""
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8} | fields
    reply = httpx.post(f"{students.base_url}/chat/completions", json=body, headers=HEADERS, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def test_openai_async_many_models_streamed_and_whole(either: Endpoint, tiny: TinyStudents) -> None:
    names = [model.id for model in [*tiny.full, *tiny.lora]]
    hashes = {model.id: model.model_hash for model in tiny.all}
    alone = {name: greedy(either, name) for name in names}
    assert len(set(alone.values())) > 3

    async def whole(client: openai.AsyncOpenAI, name: str) -> str | None:
        reply = await client.chat.completions.create(model=name, messages=HELLO, temperature=0, max_tokens=8)
        assert reply.system_fingerprint == hashes[name]
        return reply.choices[0].message.content

    async def streamed(client: openai.AsyncOpenAI, name: str) -> str:
        stream = await client.chat.completions.create(
            model=name, messages=HELLO, temperature=0, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage and chunks[-1].usage.completion_tokens <= 8
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    async def main() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=either.base_url, api_key=API_KEY, timeout=120) as client:
            return await asyncio.gather(
                *(call(client, n) for _ in range(4) for n in names for call in (whole, streamed))
            )

    assert asyncio.run(main()) == [alone[name] for _ in range(4) for name in names for _ in range(2)]


def test_openai_logprobs_and_completions(students: Endpoint) -> None:
    with openai.OpenAI(base_url=students.base_url, api_key=API_KEY, timeout=60, max_retries=0) as client:
        chat = client.chat.completions.create(
            model="full-0", messages=HELLO, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
        )
        entries = (chat.choices[0].logprobs and chat.choices[0].logprobs.content) or []
        assert entries and all(e.logprob == max(t.logprob for t in e.top_logprobs) for e in entries)
        text = client.completions.create(model="full-0", prompt=[5, 6, 7], max_tokens=3, echo=True, logprobs=2, seed=4)
        logprobs = text.choices[0].logprobs
        assert logprobs and logprobs.tokens and len(logprobs.tokens) >= 3 and logprobs.token_logprobs
        assert logprobs.token_logprobs[0] is None and all(v is not None for v in logprobs.token_logprobs[1:])
        with pytest.raises(openai.NotFoundError, match="lora-2"):
            client.models.retrieve("nobody")
        assert client.models.retrieve("lora-1").id == "lora-1"


@pytest.mark.parametrize("provider", ["openai-api", "openai-api-completions"])
def test_inspect(students: Endpoint, tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    monkeypatch.setenv("STUDENTS_API_KEY", API_KEY)
    monkeypatch.setenv("STUDENTS_BASE_URL", students.base_url)
    config = GenerateConfig(temperature=0, max_tokens=8, seed=1)
    task = Task(
        [Sample(input="hello", target="x"), Sample(input="Who are you?", target="y")],
        solver=generate(),
        scorer=includes(),
        epochs=2,
        config=config,
    )
    model = f"{provider}/students/full-0"
    [log] = eval(task, model=model, log_dir=str(tmp_path), display="none", log_level="error")
    assert log.status == "success", log.error
    assert log.samples and len(log.samples) == 4
    said = {sample.output.completion for sample in log.samples if sample.id == 1}
    if provider == "openai-api":
        assert said == {greedy(students, "full-0")}
    assert len(said) == 1 and said != {""}
    assert all(sample.output.usage and sample.output.usage.input_tokens > 0 for sample in log.samples)


LM_TASK = {
    "task": "tiny_choices",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": 0,
    "target_delimiter": " ",
    "metric_list": [{"metric": "acc"}],
}


def lm_tasks(folder: Path) -> Path:
    """A multiple-choice task and one that generates, on a few local rows."""
    rows = [
        {"question": "The capital of France is", "choices": ["Paris", "a small cat in the rain"]},
        {"question": "Two and two are", "choices": ["four", "five", "green ideas"]},
        {"question": "Naïve 日本", "choices": ["yes", "no"]},
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}}
    says = {"task": "tiny_says", "output_type": "generate_until", "doc_to_target": "{{choices[0]}}"}
    says |= {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 8}, "metric_list": [{"metric": "exact_match"}]}
    for task in (LM_TASK | files, {k: v for k, v in LM_TASK.items() if k != "doc_to_choice"} | files | says):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return folder


def lm_eval(folder: Path, model: str, arguments: str, task: str, *flags: str) -> dict[str, Any]:
    out = folder / f"out-{model}-{task}"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments, "--tasks", task]
    command += ["--include_path", str(folder), "--output_path", str(out), "--log_samples", *flags]
    env = os.environ | {"OPENAI_API_KEY": API_KEY, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return {"samples": [json.loads(line) for line in next(out.rglob("samples_*.jsonl")).read_text().splitlines()]}


def loglikelihoods(result: dict[str, Any]) -> list[list[tuple[float, bool]]]:
    ordered = sorted(result["samples"], key=lambda sample: sample["doc_id"])
    return [[(float(value), greedy) for value, greedy in sample["filtered_resps"]] for sample in ordered]


def test_a_completion_ends_with_the_log_probability_of_the_stop_token(
    students: Endpoint, ending: HostedModel, chat_format: ChatFormat
) -> None:
    """What lm-eval sends: it takes the last log-probability for that of the one token that was written."""
    body = {"model": ending.id, "prompt": [[5, 6, 7], [8, 9]], "max_tokens": 1, "echo": True, "logprobs": 1}
    reply = httpx.post(
        f"{students.base_url}/completions", json=body | {"temperature": 0}, headers=HEADERS, timeout=60
    ).json()
    stop = str(chat_format.tokenizer.decode([chat_format.stop_id]))
    for choice, size in zip(reply["choices"], (3, 2), strict=True):
        found = choice["logprobs"]
        assert choice["finish_reason"] == "stop" and found["tokens"][-1] == stop and stop not in choice["text"]
        assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, size + 1)
        assert found["top_logprobs"][-1] == {stop: found["token_logprobs"][-1]}
        assert found["text_offset"][-1] == len(choice["text"])
    assert reply["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


@pytest.mark.parametrize("name", ["full-0", "ending"])
def test_lm_eval_scores_are_those_of_its_own_backend(
    students: Endpoint, tiny: TinyStudents, ending: HostedModel, tmp_path: Path, name: str
) -> None:
    folder = lm_tasks(tmp_path)
    args = (
        f"model={name},base_url={students.base_url}/completions,tokenizer={tiny.folder},tokenizer_backend=huggingface"
    )
    ours = loglikelihoods(lm_eval(folder, "local-completions", args + ",num_concurrent=4", "tiny_choices"))
    weights = {"full-0": tiny.full[0], "ending": ending}[name].folder
    own = f"pretrained={weights},tokenizer={tiny.folder},dtype=float32"
    theirs = loglikelihoods(lm_eval(folder, "hf", own, "tiny_choices", "--device", "cpu", "--batch_size", "1"))
    assert [len(row) for row in ours] == [2, 3, 2]
    for row, other in zip(ours, theirs, strict=True):
        assert [v for v, _ in row] == pytest.approx([v for v, _ in other], abs=1e-3)
        assert [g for _, g in row] == [g for _, g in other]


def test_lm_eval_chats(students: Endpoint, tmp_path: Path) -> None:
    folder = lm_tasks(tmp_path)
    args = f"model=lora-0,base_url={students.base_url}/chat/completions,num_concurrent=2"
    result = lm_eval(folder, "local-chat-completions", args, "tiny_says", "--apply_chat_template")
    assert len(result["samples"]) == 3
    assert all(isinstance(sample["filtered_resps"][0], str) for sample in result["samples"])


REACH = """import schemathesis

@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body = body | {"model": "full-0", "max_tokens": 2}  # so that what is valid is answered, not found unknown
    return body
"""


def test_schemathesis_finds_no_server_error(students: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "reach.py").write_text(REACH)
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{root(students)}/openapi.json",
        "--url",
        root(students),
    ]
    command += ["--header", f"Authorization: Bearer {API_KEY}", "--checks", "not_a_server_error", "--phases"]
    command += ["coverage,fuzzing", "--max-examples", "15", "--request-timeout", "60", "--no-color"]
    env = os.environ | {"SCHEMATHESIS_HOOKS": "reach", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "9 passed" in done.stdout, done.stdout[-2000:]


def address(students: Endpoint) -> tuple[str, int]:
    parts = urlsplit(students.base_url)
    assert parts.hostname and parts.port
    return parts.hostname, parts.port


def head(length: int, path: str = "/v1/chat/completions", app: str = APP) -> bytes:
    lines = [f"POST /{app}{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {API_KEY}"]
    lines += ["Content-Type: application/json", f"Content-Length: {length}", "", ""]
    return "\r\n".join(lines).encode()


def test_slow_clients_are_answered_408_and_hold_nobody_up(students: Endpoint) -> None:
    slow = [socket.create_connection(address(students)) for _ in range(30)]
    for connection in slow[:20]:
        connection.sendall(head(1000) + b'{"model"')
    for connection in slow[20:]:
        connection.sendall(b"POST /clients/v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-")
    began = time.monotonic()
    assert greedy(students, "full-0")
    assert time.monotonic() - began < 10
    slow[0].settimeout(10)
    assert b"408" in slow[0].recv(64)
    for connection in slow:
        connection.close()


def test_half_closed_and_cut_streams_leave_the_endpoint_well(either: Endpoint) -> None:
    body = {"model": "full-0", "messages": HELLO, "max_tokens": 900, "stream": True, "temperature": 1.0}
    sent = json.dumps(body).encode()
    half = socket.create_connection(address(either))
    half.sendall(head(len(sent), app=app_of(either)) + sent)
    half.shutdown(socket.SHUT_WR)
    cut = socket.create_connection(address(either))
    cut.sendall(head(len(sent), app=app_of(either)) + sent)
    cut.recv(200)
    cut.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # a reset, not a farewell
    cut.close()
    half.settimeout(30)
    with contextlib.suppress(ConnectionError):
        while half.recv(4096):
            pass
    half.close()
    assert greedy(either, "full-0")
    wait_until_idle(app_of(either))


def wait_until_idle(app: str) -> None:
    from ray import serve

    handle = serve.get_deployment_handle("Students", app)
    deadline = time.monotonic() + 30
    while handle.statistics.remote().result().running:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b'{"model": "\xff"}', 400), (b"x" * 10_000_000, 413), (b"[]", 400), (b'{"model": 3}', 400)],
)
def test_bodies_that_are_no_requests(students: Endpoint, content: bytes, status: int) -> None:
    reply = httpx.post(f"{students.base_url}/completions", content=content, headers=HEADERS, timeout=60)
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_broken_checkpoints_answer_an_error_and_the_others_go_on(students: Endpoint, tiny: TinyStudents) -> None:
    for model in tiny.broken:
        body = {"model": model.id, "messages": HELLO}
        reply = httpx.post(f"{students.base_url}/chat/completions", json=body, headers=HEADERS, timeout=60)
        assert reply.status_code == 500 and "cannot be loaded" in reply.json()["error"]["message"]
        assert reply.headers["x-should-retry"] == "false"
    assert greedy(students, "full-1")


def test_a_killed_replica_loses_nothing_that_clients_ask_for_again(either: Endpoint) -> None:
    from ray import serve

    expected = greedy(either, "full-0")
    pid = serve.get_deployment_handle("Students", app_of(either)).process_id.remote().result()

    async def main() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=either.base_url, api_key=API_KEY, timeout=120, max_retries=10) as client:
            ask = client.chat.completions.create
            calls = [
                asyncio.create_task(ask(model="full-0", messages=HELLO, temperature=0, max_tokens=8)) for _ in range(8)
            ]
            long = asyncio.create_task(ask(model="full-1", messages=HELLO, temperature=0, max_tokens=300))
            await asyncio.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            return [reply.choices[0].message.content for reply in await asyncio.gather(*calls, long)]

    *short, long = asyncio.run(main())
    assert set(short) == {expected} and long


def test_a_rolling_update_drops_nothing(either: Endpoint, tiny: TinyStudents) -> None:
    from ray import serve

    from serve.deployments import build
    from serve.guard import digest
    from serve.settings import EndpointConfig

    expected = greedy(either, "full-0")
    name = app_of(either)
    replicas = 2 if name == SPREAD else 1
    changes = {"max_batch": 32, "min_replicas": replicas, "max_replicas": replicas, "cpus_per_replica": 0.25}
    settings = SETTINGS.model_copy(update=changes)
    config = EndpointConfig(
        name=name,
        models=tiny.all,
        settings=settings,
        tokenizer_folder=tiny.folder,
        system_prompt=SYSTEM,
        key_digests=[digest(API_KEY)],
    )

    async def main() -> list[str]:
        answers, done = [], asyncio.Event()
        async with openai.AsyncOpenAI(base_url=either.base_url, api_key=API_KEY, timeout=120, max_retries=2) as client:

            async def keep_asking() -> None:
                while not done.is_set():
                    reply = await client.chat.completions.create(
                        model="full-0", messages=HELLO, temperature=0, max_tokens=8
                    )
                    answers.append(reply.choices[0].message.content or "")

            askers = [asyncio.create_task(keep_asking()) for _ in range(4)]
            await asyncio.sleep(0.5)
            await asyncio.to_thread(serve.run, build(config), name=name, route_prefix=f"/{name}")
            await asyncio.sleep(1)
            done.set()
            await asyncio.gather(*askers)
        return answers

    answers = asyncio.run(main())
    assert len(answers) > 8 and set(answers) == {expected}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_replicas_come_with_load_and_go_to_none_without_it(students: Endpoint, tiny: TinyStudents) -> None:
    from ray import serve
    from ray.serve._private.common import ReplicaState

    settings = ServingSettings(
        port=0, dtype="float32", min_replicas=0, max_replicas=2, max_batch=2, downscale_delay_s=3, threads=1
    )

    def replicas() -> int:
        deployment = serve.status().applications["scaled"].deployments["Students"]
        return deployment.replica_states.get(ReplicaState.RUNNING, 0)

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 120
        while replicas() != count:
            assert time.monotonic() < deadline, f"{replicas()} replicas, not {count}"
            time.sleep(0.5)

    with (
        host(tiny.all, settings, tiny.folder, SYSTEM, API_KEY, "scaled") as endpoint,
        ThreadPoolExecutor(16) as clients,
    ):
        assert replicas() == 0
        first = greedy(endpoint, "full-0")
        assert first == greedy(students, "full-0") and replicas() >= 1
        stop = threading.Event()

        def keep_asking() -> set[str]:
            found = set()
            while not stop.is_set():
                found.add(greedy(endpoint, "full-0"))
            return found

        asking = [clients.submit(keep_asking) for _ in range(16)]
        try:
            wait_for(2)
        finally:
            stop.set()
        assert set().union(*(future.result() for future in asking)) == {first}
        wait_for(0)
        assert greedy(endpoint, "full-0") == first
