"""Tables and identifiers that every stage shares (pyarrow schemas; see the README for the words)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypedDict

import pyarrow as pa

from sftfilter.config import stable_hash


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


ROLES = ("system", "user", "assistant")
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])

PROMPTS = pa.schema(
    [("prompt_id", pa.string()), ("messages", pa.list_(MESSAGE)), ("kind", pa.string()), ("source", pa.string())]
)
GENERATION = pa.struct(
    [
        ("model_hash", pa.string()),  # of the weights; of an endpoint, the model and fingerprint that it names
        ("system_prompt", pa.string()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_tokens", pa.int64()),
        ("seed", pa.int64()),
        ("sample", pa.int64()),  # which of several answers to the prompt, from 0
    ]
)
RATINGS = pa.map_(pa.string(), pa.float64())
ROLLOUTS = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("prompt_id", pa.string()),
        ("messages", pa.list_(MESSAGE)),
        ("completion", pa.string()),
        ("finish_reason", pa.string()),
        ("teacher", pa.string()),
        ("teacher_base", pa.string()),
        ("source", pa.string()),
        ("kind", pa.string()),
        ("source_id", pa.string()),  # what the file itself calls the row
        ("generation", GENERATION),
        ("ratings", RATINGS),  # numbers that the file brought along: somebody's scores, or 0/1 for flags
    ]
)
DERIVED = ROLLOUTS.append(pa.field("derived_from", pa.string()))  # rollout id of the row that was rewritten
SCORES = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("scorer", pa.string()),
        ("score", pa.float64()),
        ("error", pa.string()),
        ("detail", pa.string()),
        ("fingerprint", pa.string()),
    ]
)
DECISIONS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("action", pa.string()),  # keep | drop | swap | rewrite | add
        ("reason", pa.string()),
        ("rollout_id", pa.string()),  # the teacher's own row that the decision is about; for add, the row added
        ("replaced_by", pa.string()),  # the row trained on instead, for swap and rewrite
        ("selector", pa.string()),
        ("threshold", pa.float64()),
    ]
)
TRAIT_RESULTS = pa.schema(
    [
        ("student", pa.string()),
        ("trait", pa.string()),
        ("prompt_id", pa.string()),
        ("group", pa.string()),
        ("sample", pa.int64()),
        ("answer", pa.string()),
        ("grade", pa.float64()),  # 1 shows the trait, 0 does not, null could not be graded
        ("parse_ok", pa.bool_()),
        ("log_odds", pa.float64()),  # nats, trait-showing against trait-free continuations; null when not measured
        ("model_hash", pa.string()),
    ]
)
QUARANTINE = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("field", pa.string()), ("reason", pa.string()), ("raw", pa.string())]
)


def prompt_id(messages: Sequence[Message]) -> str:
    """Hash of the canonical turns: roles lower-cased, white space at either end and line ends normalised."""
    turns = [[m["role"].lower(), m["content"].strip().replace("\r\n", "\n")] for m in messages]
    return stable_hash(turns)


def rollout_id(prompt: str, teacher: str, completion: str, sample: int = 0) -> str:
    """Hash of prompt id, teacher and completion (and which of several samples it was)."""
    return stable_hash([prompt, teacher, completion, sample])


def row_seed(seed: int, prompt: str, attempt: int = 0) -> int:
    """A seed of its own for each prompt, so that what is sampled does not depend on the batch it is sampled in."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt}/{attempt}".encode()).digest()[:6], "big")
