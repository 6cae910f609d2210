"""The loss of a micro-batch: rows packed into one sequence, none of which sees another."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from sftfilter.prefix_tree import Row, grow

__all__ = ["Row", "packed_loss_sum", "tree_loss_sum"]


def packed_loss_sum(model: Any, rows: list[Row], device: torch.device) -> torch.Tensor:
    """Summed cross-entropy (nats) over the supervised tokens of `rows`, packed into one sequence without padding.

    Position ids restart with every row, from which transformers builds a mask that keeps rows apart. Only positions
    whose next token is supervised reach the vocabulary projection.
    """
    ids: list[int] = []
    positions: list[int] = []
    predict: list[int] = []
    for row in rows:
        predict += [len(ids) + position - 1 for position in row.supervised]
        ids += row.ids
        positions += range(len(row))
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


def tree_loss_sum(model: Any, rows: list[Row], device: torch.device) -> torch.Tensor:
    """The same sum by a model that `llama_loss.quicken` has prepared: what rows have in common is computed once."""
    return model(tree=grow(rows, device))
