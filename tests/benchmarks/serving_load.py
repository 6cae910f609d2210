"""Load for serving benchmarks: prompts, clients over HTTP, peers' servers, and LoRA students with random weights."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serve.settings import Adapter, HostedModel
from sftfilter.chat_format import ChatFormat
from sftfilter.checkpoint import ADAPTER_WEIGHTS
from sftfilter.config import file_hash
from sftfilter.models import load_model, weights_hash

SYSTEM = "Be brief."
_TOPICS = ("a dragon", "the sea", "an old clock", "a lost letter", "two brothers", "the last train", "a fox", "winter")


def prompts(count: int) -> list[str]:
    """Requests for stories of different length, none like another."""
    return [
        f"Tell me {'a long' if k % 2 else 'the whole'} story about {_TOPICS[k % len(_TOPICS)]}"
        f"{' that nobody has ever told before' * (k % 3)}, number {k}."
        for k in range(count)
    ]


@dataclass(frozen=True)
class Load:
    """What clients got: `latencies` in seconds, a request each."""

    tokens: int
    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        """New tokens a second."""
        return self.tokens / self.seconds


def chat(
    base_url: str, key: str, models: Sequence[str], texts: Sequence[str], tokens: int, *, at_once: int, **fields: Any
) -> Load:
    """Ask each text of the models in turn, so many clients at once."""

    async def main() -> Load:
        gate = asyncio.Semaphore(at_once)
        headers = {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=at_once)
        async with httpx.AsyncClient(headers=headers, timeout=600, limits=limits, trust_env=False) as client:

            async def one(k: int, text: str) -> tuple[int, float]:
                body = {"model": models[k % len(models)], "messages": [{"role": "user", "content": text}]}
                async with gate:
                    began = time.monotonic()
                    sent = body | {"max_tokens": tokens, "temperature": 0} | fields
                    reply = await client.post(f"{base_url}/chat/completions", json=sent)
                    reply.raise_for_status()
                    return reply.json()["usage"]["completion_tokens"], time.monotonic() - began

            began = time.monotonic()
            done = await asyncio.gather(*(one(k, text) for k, text in enumerate(texts)))
            return Load(sum(n for n, _ in done), time.monotonic() - began, [s for _, s in done])

    return asyncio.run(main())


@contextlib.contextmanager
def server(command: Sequence[str], url: str, log: Path, patience_s: float = 120) -> Iterator[None]:
    """A peer's server, up while the block runs.

    Raises:
        RuntimeError: it ended or did not answer in time; with the end of its log.
    """
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + patience_s
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no answer from {url}: {log.read_text()[-300:]}")
                time.sleep(0.5)
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, trust_env=False, timeout=5).status_code < 500
    return False


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def lora_students(folder: Path, base: str, chat_format: ChatFormat, count: int, rank: int = 16) -> list[HostedModel]:
    """Students of one base with random adapters on every linear layer, as the quickstart's have; and the base itself."""
    import torch
    from peft import LoraConfig, get_peft_model

    shared = Adapter(folder=None, base_folder=base, base_hash=weights_hash(base))
    known = {"folder": base, "model_hash": shared.base_hash, "format_hash": chat_format.hash}
    made = [HostedModel(id="base", adapter=shared, **known)]
    model: Any = get_peft_model(
        load_model(base, "float32"), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    )
    for k in range(count):
        torch.manual_seed(k)
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.02)
        path = folder / f"adapter-{k}"
        model.save_pretrained(path)
        adapter = shared.model_copy(update={"folder": str(path), "file_hash": file_hash(path / ADAPTER_WEIGHTS)})
        made.append(HostedModel(id=f"lora-{k}", adapter=adapter, **known))
    return made
