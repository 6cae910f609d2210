"""Hidden states of one layer, without running the layers above it, and their means over the tokens of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sftfilter.shared_prefix import PackedRow


def hidden_states(decoder: Any, layer: int | None, **inputs: Any) -> torch.Tensor:
    """Hidden states [B, L, D], equal to transformers' `hidden_states[layer]`.

    Args:
        decoder: the model without its head.
        layer: 1 to the number of layers; None is the last one. As in transformers, the last is after the final norm.
        inputs: of the decoder's forward pass.
    """
    total = decoder.config.num_hidden_layers
    if layer is None or layer == total:
        return decoder(**inputs).last_hidden_state
    block = next(m for m in decoder.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == total)[layer - 1]

    def leave(_module: Any, _inputs: Any, output: Any) -> None:
        raise _LayerDone(output[0] if isinstance(output, tuple) else output)

    handle = block.register_forward_hook(leave)
    try:
        decoder(**inputs)
    except _LayerDone as done:
        return done.states
    finally:
        handle.remove()
    raise AssertionError("the forward pass went by its own layer")


class _LayerDone(Exception):  # noqa: N818
    """Leaves a forward pass with what the wanted layer gave."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


class AnswerMeans:
    """Collects means over the positions from `start` on, from packed rows in any order.

    Attributes:
        values: float32 [N, D], a row for each sequence.
    """

    def __init__(self, sequences: Sequence[list[int]], start: Sequence[int]) -> None:
        self.sequences = sequences
        self.start = start
        self.values = np.zeros((len(sequences), 0), np.float32)

    def add(self, part: Sequence[PackedRow], hidden: torch.Tensor) -> None:
        """Take in the hidden states [B, L, D] of one pass."""
        if not self.values.shape[1]:
            self.values = np.zeros((len(self.sequences), hidden.shape[-1]), np.float32)
        members = [(k, row, i, offset) for k, row in enumerate(part) for i, offset in row.members]
        spots = [self._spots(row, i, offset) + k * hidden.shape[1] for k, row, i, offset in members]
        sizes = torch.tensor([len(s) for s in spots])
        owner = torch.arange(len(members)).repeat_interleave(sizes).to(hidden.device)
        chosen = hidden.flatten(0, 1)[torch.cat(spots).to(hidden.device)].float()
        sums = torch.zeros(len(members), hidden.shape[-1], device=hidden.device).index_add_(0, owner, chosen)
        self.values[[i for _, _, i, _ in members]] = (sums.cpu() / sizes[:, None]).numpy()

    def _spots(self, row: PackedRow, i: int, offset: int) -> torch.Tensor:
        """Places in the row of the positions that count."""
        start, size = self.start[i], len(self.sequences[i])
        common = torch.arange(min(start, row.shared), row.shared)
        own = torch.arange(max(start, row.shared), size) + offset - row.shared
        return torch.cat([common, own])
