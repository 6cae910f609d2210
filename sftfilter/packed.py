"""The loss of a micro-batch: rows packed into one sequence, none of which sees another."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

Row = tuple[list[int], list[int]]
"""Token ids of the prompt (no loss) and of the answer (loss, stop token included)."""


def packed_loss_sum(model: Any, rows: list[Row], device: torch.device) -> torch.Tensor:
    """Summed cross-entropy (nats) over the answers of `rows`, packed into one sequence without padding.

    Position ids restart with every row, from which transformers builds a mask that keeps rows apart. Only positions
    whose next token is supervised reach the vocabulary projection.
    """
    ids: list[int] = []
    positions: list[int] = []
    predict: list[int] = []
    for prompt, answer in rows:
        first = len(ids) + len(prompt) - 1
        predict += range(first, first + len(answer))
        ids += prompt + answer
        positions += range(len(prompt) + len(answer))
    input_ids = torch.tensor([ids], device=device)
    keep = torch.tensor(predict, device=device)
    logits = model(
        input_ids=input_ids,
        position_ids=torch.tensor([positions], device=device),
        attention_mask=None,
        use_cache=False,
        logits_to_keep=keep,
    ).logits[0]
    return cross_entropy(logits.float(), input_ids[0, keep + 1], reduction="sum")
