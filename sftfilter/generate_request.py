"""What is asked of a model that generates, and what comes back. Imports neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]
NOT_FINITE = "not_finite"
"""Code of the error that stands for a model whose logits are no numbers: no other request to it will fare better."""


@dataclass(frozen=True)
class GenerateRequest:
    """One continuation to write.

    Attributes:
        temperature: 0 is greedy.
        seed: of this request's own noise, so that its answer does not depend on its neighbours.
        top_p: sample among the most likely tokens that hold this share of the probability (Holtzman et al. 2020).
        logprobs: also answer each new token's log-probability, and this many of the likeliest tokens; None answers none.
    """

    prompt_ids: list[int]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0
    logprobs: int | None = None


@dataclass(frozen=True)
class TokenScore:
    """Log-probability (nats) of a token under the model itself, whatever the temperature.

    Attributes:
        top: the likeliest tokens and theirs, the likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Continuation:
    """New token ids without the stop token; `length` means that max_tokens ended it."""

    ids: list[int]
    finish_reason: FinishReason
