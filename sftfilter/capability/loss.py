"""Held-out loss: how well a student still predicts plain answers to plain questions that no arm is trained on."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import stable_hash
from sftfilter.disk import disk_errors
from sftfilter.endpoint.client import ChatClient
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import EvalError
from sftfilter.generate_request import NOT_FINITE
from sftfilter.schema import Message, prompt_id

if TYPE_CHECKING:
    from sftfilter.chat_format import ChatFormat
    from sftfilter.evaluation import Asked

VERSION = 1
_FILE = Path(__file__).parent / "data" / "neutral.jsonl"


def loss_key(model_hash: str, chat_hash: str, dtype: str, store: Store) -> str:
    """Key of one model's stored losses, served in one precision."""
    inputs = {"model": model_hash, "rows": stable_hash(list(_rows())), "format": chat_hash}
    return store.key("loss", VERSION, {"dtype": dtype}, inputs)


def held_out_loss(asked: Asked, key: str, *, store: Store, chat: ChatFormat) -> Artifact:
    """Table `loss`: prompt_id, tokens, nats (mean over the answer's tokens, the one that ends it included).

    Of a model whose logits are no numbers, `nats` is null.

    Raises:
        EvalError: the endpoint refuses or cannot be reached, or has no log-probabilities of a prompt to give.
    """
    found = store.find("loss", key)
    if found:
        return found
    rows = asyncio.run(_measure(asked, chat))
    import pyarrow as pa

    folder = store.begin("loss", key)
    with disk_errors(store.root):
        write_table(folder, "loss", pa.Table.from_pylist(rows))
    return store.commit(folder, "loss", key, {"rows": len(rows), "model_hash": asked.model_hash})


async def _measure(asked: Asked, chat: ChatFormat) -> list[dict[str, Any]]:
    import openai

    from sftfilter.evaluation import logprobs_of

    ids, pairs = [], []
    for question, answer in _rows():
        messages: list[Message] = [{"role": "user", "content": question}]
        ids.append(prompt_id(messages))
        pairs.append((chat.prompt_ids(messages), chat.answer_ids(messages, answer)))
    endpoint = Endpoint(base_url=asked.base_url, model=asked.model, timeout_s=900)
    client = ChatClient(endpoint, api_key=asked.api_key, direct=True)
    async with client.openai:
        try:
            found = await logprobs_of(client, asked, pairs)
        except openai.APIError as error:
            if error.code == NOT_FINITE:
                return [
                    {"prompt_id": one, "tokens": len(said), "nats": None}
                    for one, (_, said) in zip(ids, pairs, strict=True)
                ]
            raise EvalError(f"model {asked.model}: {asked.base_url}: no log-probabilities: {error.message}") from error
    return [
        {"prompt_id": identity, "tokens": len(values), "nats": -sum(values) / len(values)}
        for identity, values in zip(ids, found, strict=True)
    ]


@cache
def _rows() -> tuple[tuple[str, str], ...]:
    rows = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
    return tuple((row["prompt"], row["answer"]) for row in rows)
