"""Choosing the next token of every row of a batch, each row with its own temperature, nucleus and seed.

Sampling is Gumbel-max: argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T). The noise comes from a
generator per row, so what a row draws depends neither on its neighbours nor on when it joined them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sftfilter.generate_request import GenerateRequest, TokenScore


class Noise:
    """A row's own stream of waiting times; their negative logarithm is Gumbel noise."""

    def __init__(self, seed: int, device: str) -> None:
        if device == "cpu":
            self._numpy: Any = np.random.default_rng(seed)  # its ziggurat is 4 x torch's on CPU
            self._torch: Any = None
        else:  # drawn where it is needed: a vocabulary's worth of noise a step is too much to send there
            self._torch = torch.Generator(device).manual_seed(seed)

    def fill(self, row: torch.Tensor) -> None:
        """Draw for every token of the vocabulary [V]."""
        if self._torch is None:
            self._numpy.standard_exponential(out=row.numpy(), dtype=np.float32)
        else:
            row.exponential_(generator=self._torch)


def choose(
    logits: torch.Tensor,
    requests: Sequence[GenerateRequest],
    noises: Sequence[Noise],
    likeliest: torch.Tensor | None = None,
) -> list[int]:
    """The next token of each row.

    Args:
        logits: float32 [B, V].
        likeliest: [B] their argmax, where it is known; it is overwritten.
    """
    chosen = logits.argmax(-1) if likeliest is None else likeliest
    drawn = [i for i, request in enumerate(requests) if request.temperature > 0]
    if drawn:
        every = len(drawn) == len(requests)
        rows = torch.tensor(drawn, device=logits.device)
        heat = torch.tensor([requests[i].temperature for i in drawn], device=logits.device)
        scores = (logits if every else logits[rows]) / heat[:, None]
        _keep_nucleus(scores, [requests[i].top_p for i in drawn])
        waits = torch.empty_like(scores)
        for k, i in enumerate(drawn):
            noises[i].fill(waits[k])
        chosen[rows] = scores.sub_(waits.log_()).argmax(-1)
    return chosen.tolist()


def _keep_nucleus(scores: torch.Tensor, shares: Sequence[float]) -> None:
    """Rule out, in place, tokens [B, V] beyond the likeliest that hold the share; the likeliest one always stays."""
    cut = [k for k, share in enumerate(shares) if share < 1]
    if not cut:
        return
    ordered, order = scores[cut].sort(-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    limit = torch.tensor([shares[k] for k in cut], device=scores.device)[:, None]
    outside = before >= limit
    outside[:, 0] = False
    scores[cut] = scores[cut].scatter(1, order, ordered.masked_fill(outside, float("-inf")))


def score_tokens(
    logits: torch.Tensor, targets: Sequence[int], alternatives: Sequence[int | None]
) -> list[TokenScore | None]:
    """Log-probability of each target and its likeliest alternatives; None where `alternatives` is None.

    Args:
        logits: float32 [B, V].
    """
    wanted = [i for i, count in enumerate(alternatives) if count is not None]
    if not wanted:
        return [None] * len(alternatives)
    rows = logits[wanted] if len(wanted) < len(alternatives) else logits
    totals = rows.logsumexp(-1)
    own = rows.gather(1, torch.tensor([targets[i] for i in wanted], device=rows.device)[:, None])[:, 0] - totals
    most = max(alternatives[i] or 0 for i in wanted)
    values, ids = (rows.topk(most, -1)) if most else (rows[:, :0], rows[:, :0].long())
    tops, names, own_list = (values - totals[:, None]).tolist(), ids.tolist(), own.tolist()
    found: list[TokenScore | None] = [None] * len(alternatives)
    for k, i in enumerate(wanted):
        count = alternatives[i] or 0
        found[i] = TokenScore(own_list[k], tuple(zip(names[k][:count], tops[k][:count], strict=True)))
    return found
