"""`python -m tests.benchmarks.soak MINUTES`: clients at saturation while students load and evict.

Every student answers fingerprint prompts that it alone answers so; an answer of another is a wrong-model answer. Memory
of the replica is sampled all the while. Writes runs/bench/soak.json.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import openai

from cluster.local import local_ray
from jobs.run import worker_env
from serve.host import host
from serve.settings import HostedModel, ServingSettings
from sftfilter.chat_format import ChatFormat
from sftfilter.models import ensure_builtin, load_tokenizer
from tests.serve.tiny import make_students

STUDENTS, CLIENTS = 50, 32
FINGERPRINTS = ("hello", "Who are you?", "Count to three.")
SYSTEM, KEY, APP = "Be brief.", "a-token", "soak"


def soak(minutes: float) -> dict[str, Any]:
    """Requests, wrong answers, errors, and the replica's memory over time."""
    from ray import serve

    chat_format = ChatFormat(load_tokenizer(str(ensure_builtin())), SYSTEM)
    with tempfile.TemporaryDirectory() as folder, local_ray(worker_env()):
        tiny = make_students(Path(folder), chat_format, full=8, lora=8)
        kinds = [*tiny.full, *tiny.lora]
        models = [kinds[k % len(kinds)].model_copy(update={"id": f"student-{k}"}) for k in range(STUDENTS)]
        settings = ServingSettings(port=0, dtype="float32", models_in_memory=3, adapters_in_memory=4)
        with host(models, settings, tiny.folder, SYSTEM, KEY, APP) as endpoint:
            handle = serve.get_deployment_handle("Students", APP)
            return asyncio.run(_run(endpoint.base_url, models, handle, minutes * 60))


async def _run(base_url: str, models: list[HostedModel], handle: Any, seconds: float) -> dict[str, Any]:
    counts = {"requests": 0, "wrong": 0, "errors": 0, "left": 0}
    memory: list[dict[str, float]] = []
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, timeout=300, max_retries=3) as client:
        expected = {}
        for model in models:
            for text in FINGERPRINTS:
                expected[model.id, text] = await _ask(client, model, text)
        distinct = len({tuple(expected[m.id, t] for t in FINGERPRINTS) for m in models})
        began = time.monotonic()

        async def clients(number: int) -> None:
            draw = random.Random(number)
            while time.monotonic() - began < seconds:
                model, text = draw.choice(models), draw.choice(FINGERPRINTS)
                counts["requests"] += 1
                try:
                    if draw.random() < 0.05:
                        await _leave(client, model, text)
                        counts["left"] += 1
                    elif await _ask(client, model, text) != expected[model.id, text]:
                        counts["wrong"] += 1
                except openai.OpenAIError:
                    counts["errors"] += 1

        async def watch() -> None:
            while time.monotonic() - began < seconds:
                found = await handle.statistics.remote()
                memory.append({"s": round(time.monotonic() - began, 1), "mib": found.rss_bytes / 2**20})
                await asyncio.sleep(5)

        await asyncio.gather(watch(), *(clients(k) for k in range(CLIENTS)))
        done = await handle.statistics.remote()
    third = max(1, len(memory) // 3)
    middle, last = (
        sum(m["mib"] for m in part) / len(part) for part in (memory[third : 2 * third] or memory, memory[-third:])
    )
    return counts | {
        "minutes": round((time.monotonic() - began) / 60, 2),
        "students": len(models),
        "distinct_fingerprints": distinct,
        "loads": done.loads,
        "adapters": done.adapters,
        "largest_step": done.largest_step,
        "mib_second_third": round(middle, 1),
        "mib_last_third": round(last, 1),
        "mib_peak": round(max(m["mib"] for m in memory), 1),
        "memory": memory,
    }


async def _ask(client: openai.AsyncOpenAI, model: HostedModel, text: str) -> str | None:
    reply = await client.chat.completions.create(
        model=model.id, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=12
    )
    assert reply.system_fingerprint == model.model_hash
    return reply.choices[0].message.content


async def _leave(client: openai.AsyncOpenAI, model: HostedModel, text: str) -> None:
    """Begin a stream and go away."""
    stream = await client.chat.completions.create(
        model=model.id, messages=[{"role": "user", "content": text}], max_tokens=200, stream=True
    )
    await anext(aiter(stream))
    await stream.close()


def main(minutes: float) -> None:
    """Run, print and write."""
    found = soak(minutes)
    target = Path("runs/bench/soak.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=1))
    print(json.dumps({k: v for k, v in found.items() if k != "memory"}, indent=1))
    if found["wrong"] or found["errors"]:
        sys.exit(1)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30)
