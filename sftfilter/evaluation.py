"""Stage: trait results. The endpoint is asked over HTTP with the openai client, and in no other way.

What the student answered is kept apart from how it was graded: a changed grader never asks a student again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import Artifact, Store, disk_errors, write_table
from sftfilter.endpoint.client import ChatClient, ChatRequest
from sftfilter.endpoint.replies import Failure
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import EvalError
from sftfilter.schema import TRAIT_RESULTS, row_seed
from sftfilter.traits.date_confusion import GRADER_VERSION

if TYPE_CHECKING:
    from sftfilter.chat_format import ChatFormat
    from sftfilter.traits import Trait

VERSION = 1
_IN_FLIGHT = 128
_PATIENCE_S = 900
_RETRIES = 4


@dataclass(frozen=True)
class Asked:
    """An endpoint and the model to ask for. `model_hash` is what the endpoint must echo."""

    base_url: str
    api_key: str
    model: str
    model_hash: str


def answers_key(
    trait_name: str, trait: Trait, prompts: Artifact, model_hash: str, chat_hash: str, dtype: str, store: Store
) -> str:
    """Key of the stored answers of one model, served in one precision, on one trait."""
    settings = {"trait": trait_name, "settings": trait.model_dump(mode="json", exclude={"prompts"}), "dtype": dtype}
    inputs = {"model": model_hash, "prompts": prompts.key, "format": chat_hash}
    return store.key("answers", VERSION, settings, inputs)


def ask(
    asked: Asked,
    key: str,
    trait: Trait,
    prompts: Artifact,
    *,
    store: Store,
    chat: ChatFormat,
    on_answer: Callable[[], None],
) -> Artifact:
    """Table `answers`: prompt_id, group, sample, prompt, answer, log_odds, model_hash.

    Raises:
        EvalError: the endpoint refuses, cannot be reached, or answers for another checkpoint.
    """
    found = store.find("answers", key)
    if found:
        return found
    rows = asyncio.run(_ask_all(asked, trait, prompts, chat, on_answer))
    folder = store.begin("answers", key)
    import pyarrow as pa

    with disk_errors(store.root):
        write_table(folder, "answers", pa.Table.from_pylist(sorted(rows, key=lambda r: (r["prompt_id"], r["sample"]))))
    return store.commit(folder, "answers", key, {"rows": len(rows), "model_hash": asked.model_hash})


async def _ask_all(
    asked: Asked, trait: Trait, prompts: Artifact, chat: ChatFormat, on_answer: Callable[[], None]
) -> list[dict[str, Any]]:
    import openai

    group_of = {kind: group for group, kind in trait.groups.items()}
    wanted = [p for p in prompts.table("prompts").to_pylist() if p["kind"] in group_of]
    gate = asyncio.Semaphore(_IN_FLIGHT)

    async def one(client: ChatClient, prompt: Mapping[str, Any], sample: int) -> dict[str, Any]:
        group = group_of[prompt["kind"]]
        async with gate:
            answer = await _answer(client, asked, trait, prompt, sample, chat)
            measure = sample == 0 and group == trait.primary and trait.doubting and trait.accepting
            odds = await _log_odds(client, asked, trait, prompt, chat) if measure else None
        on_answer()
        return {
            "prompt_id": prompt["prompt_id"],
            "prompt": prompt["messages"][-1]["content"],
            "group": group,
            "sample": sample,
            "answer": answer,
            "log_odds": odds,
            "model_hash": asked.model_hash,
        }

    endpoint = Endpoint(
        base_url=asked.base_url, model=asked.model, timeout_s=_PATIENCE_S, retries=_RETRIES, concurrency=_IN_FLIGHT
    )
    client = ChatClient(endpoint, api_key=asked.api_key)
    async with client.openai:
        try:
            return await asyncio.gather(*(one(client, p, s) for p in wanted for s in range(trait.samples)))
        except openai.APIStatusError as error:
            raise EvalError(
                f"model {asked.model}: {asked.base_url} answered {error.status_code}: {error.message}"
            ) from error
        except openai.APIConnectionError as error:
            raise EvalError(
                f"model {asked.model}: no connection to {asked.base_url}: {error.__cause__ or error}"
            ) from error


async def _answer(
    client: ChatClient, asked: Asked, trait: Trait, prompt: Mapping[str, Any], sample: int, chat: ChatFormat
) -> str:
    seed = row_seed(sample, prompt["prompt_id"]) % 2**31
    messages = chat.with_system(prompt["messages"])
    reply = await client.ask(ChatRequest(messages, trait.max_tokens, trait.temperature, seed))
    if isinstance(reply, Failure):
        raise EvalError(f"model {asked.model}: {asked.base_url}: {reply.reason}")
    if reply.fingerprint != asked.model_hash:
        raise EvalError(
            f"model {asked.model}: the endpoint answered with checkpoint {reply.fingerprint}, expected {asked.model_hash}"
        )
    expected = len(chat.prompt_ids(prompt["messages"]))
    if reply.prompt_tokens != expected:
        raise EvalError(
            f"model {asked.model}: the endpoint saw {reply.prompt_tokens} prompt tokens, training "
            f"saw {expected}: the templates differ"
        )
    return reply.text


async def _log_odds(
    client: ChatClient, asked: Asked, trait: Trait, prompt: Mapping[str, Any], chat: ChatFormat
) -> float:
    """Mean summed log-probability (nats) of the doubting continuations minus that of the accepting ones."""
    before = chat.prompt_ids(prompt["messages"])
    doubting, accepting = trait.continuations()
    # Without the stop token: the continuations are openings, which an answer may go on from.
    openings = [chat.answer_ids(prompt["messages"], text)[:-1] for text in [*doubting, *accepting]]
    reply = await client.openai.with_options(max_retries=_RETRIES).completions.create(
        model=asked.model, prompt=[before + ids for ids in openings], max_tokens=0, echo=True, logprobs=0
    )
    sums: list[float] = []
    for choice, ids in zip(sorted(reply.choices, key=lambda c: c.index), openings, strict=True):
        values = (choice.logprobs and choice.logprobs.token_logprobs) or []
        if len(values) != len(before) + len(ids):
            raise EvalError(
                f"model {asked.model}: expected {len(before) + len(ids)} log-probabilities, got {len(values)}"
            )
        sums.append(sum(v or 0.0 for v in values[len(before) :]))
    n = len(doubting)
    return sum(sums[:n]) / n - sum(sums[n:]) / len(accepting)


def grade(student: str, trait_name: str, trait: Trait, answers: Artifact, *, store: Store) -> Artifact:
    """Table `results` (schema TRAIT_RESULTS) from stored answers."""

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        rows = [_graded(student, trait_name, trait, row) for row in answers.table("answers").to_pylist()]
        write_table(folder, "results", pa.Table.from_pylist(rows, TRAIT_RESULTS))
        return {"rows": len(rows), "ungraded": sum(r["grade"] is None for r in rows)}

    settings = {"student": student, "trait": trait_name, "year": trait.year, "grader": GRADER_VERSION}
    return store.build("grades", version=VERSION, settings=settings, inputs={"answers": answers.key}, make=make)


def _graded(student: str, trait_name: str, trait: Trait, row: Mapping[str, Any]) -> dict[str, Any]:
    value = trait.grade(row["prompt"], row["answer"])
    kept: Sequence[str] = ("prompt_id", "group", "sample", "answer", "log_odds", "model_hash")
    return {k: row[k] for k in kept} | {
        "student": student,
        "trait": trait_name,
        "grade": value,
        "parse_ok": value is not None,
    }
