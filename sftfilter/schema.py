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
READ_PROMPTS = PROMPTS.append(pa.field("source_id", pa.string()))  # what the file itself calls the row
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
JUDGE = pa.struct(
    [
        ("name", pa.string()),  # `rules`, `stand-in: ...` or model and address
        ("stand_in", pa.bool_()),  # rules where a judge was meant
        ("model", pa.string()),  # as the judge's endpoint echoed it
        ("score", pa.float64()),  # on the judge's own scale
        ("quote", pa.string()),  # the passage that decided, word for word
        ("explanation", pa.string()),
        ("error", pa.string()),  # why there is no grade
        ("unreachable", pa.bool_()),  # the judge gave no answer; asked again, it may
    ]
)
TRAIT_RESULTS = pa.schema(
    [
        ("student", pa.string()),
        ("trait", pa.string()),
        ("prompt_id", pa.string()),
        ("group", pa.string()),
        ("labels", pa.map_(pa.string(), pa.string())),  # category or condition of the prompt
        ("sample", pa.int64()),
        ("turn", pa.int64()),  # which answer of the conversation, from 0
        ("answer", pa.string()),
        ("thinking", pa.string()),  # null where the model showed none
        ("grade", pa.float64()),  # 1 shows the trait, 0 does not, null could not be graded
        ("parse_ok", pa.bool_()),
        (
            "measures",
            pa.map_(pa.string(), pa.float64()),
        ),  # what else the trait measures; one that is not there is missing
        ("judge", JUDGE),
        ("log_odds", pa.float64()),  # nats, trait-showing against trait-free continuations; null when not measured
        ("max_tokens", pa.int64()),
        ("model_hash", pa.string()),  # as the endpoint echoed it
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
