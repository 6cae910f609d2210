"""The loss of a micro-batch: rows packed into one sequence, none of which sees another."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from sftfilter.prefix_tree import Row, grow

__all__ = ["Row", "keeps_rows_apart", "packed_loss_sum", "tree_loss_sum"]

_PROBE_TOKENS = 16
_LEAK = 0.05
"""Of what a row before it changes in a row's logits: bfloat16 errs by less, recurrent layers let all of it through."""


def packed_loss_sum(model: Any, rows: list[Row], device: torch.device) -> torch.Tensor:
    """Summed cross-entropy (nats) over the supervised tokens of `rows`, packed into one sequence without padding.

    Position ids restart with every row, from which transformers builds a mask that keeps rows apart, if all that a
    position sees of others passes through attention (`keeps_rows_apart`). Only positions whose next token is supervised
    reach the vocabulary projection.
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


@torch.no_grad()
def keeps_rows_apart(model: Any, vocabulary: int, device: torch.device) -> bool:
    """Whether rows packed into one sequence give this model's answers to each row alone.

    Layers that carry a state along (Mamba, RWKV, gated delta nets), short convolutions and attention that ignores
    position ids do not. Tried, not looked up: a row's logits after another, with restarted positions, against its own,
    and against those that it has as that row's continuation.

    Args:
        vocabulary: token ids that the model has embeddings for.
    """
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(vocabulary, (2, _PROBE_TOKENS), generator=generator).tolist()
    positions = list(range(2 * _PROBE_TOKENS))

    def logits(ids: list[int], at: list[int]) -> torch.Tensor:
        made = model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([at], device=device),
            attention_mask=None,
            use_cache=False,
        )
        return made.logits[0, -_PROBE_TOKENS:].float()

    alone = logits(second, positions[:_PROBE_TOKENS])
    packed = logits([*first, *second], 2 * positions[:_PROBE_TOKENS])
    continued = logits([*first, *second], positions)
    return bool((packed - alone).norm() <= _LEAK * (continued - alone).norm())


def tree_loss_sum(model: Any, rows: list[Row], device: torch.device) -> torch.Tensor:
    """The same sum by a model that `llama_loss.quicken` has prepared: what rows have in common is computed once."""
    return model(tree=grow(rows, device))
