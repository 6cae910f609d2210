"""What the HTTP side and the replicas that hold students hand each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sftfilter.engine import GenerateRequest


@dataclass(frozen=True)
class Work:
    """One HTTP request's share of a model's time.

    Attributes:
        sequences: what to continue; `max_tokens` 0 asks for no continuation, only for log-probabilities.
        logprobs: also score the tokens of the answer, or of prompt and answer.
    """

    sequences: list[GenerateRequest]
    logprobs: Literal["none", "answer", "all"] = "none"


@dataclass(frozen=True)
class Answer:
    """One sequence's new tokens.

    Attributes:
        logprobs: natural logarithms, of the answer's tokens or of all but the very first; empty when not asked for.
    """

    ids: list[int]
    finish_reason: Literal["stop", "length"]
    logprobs: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """Why there is no answer. A value, not an exception: Serve would log a raised one with a traceback.

    Attributes:
        status: HTTP status.
        retry_after_s: when asking again may help; None says that it will not.
    """

    status: int
    message: str
    code: str
    retry_after_s: float | None = None
