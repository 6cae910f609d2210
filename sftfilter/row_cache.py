"""Keys and values of rows that join and leave a running batch.

A layer keeps one tensor [rows, heads, positions, D] for keys and one for values. Row i of the batch is row i of the
tensors and writes at its own position, so rows of any length share a forward pass; a pass sees a view, never a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_GRAIN = 64
"""Positions by which the tensors grow at least."""


@dataclass
class _Pass:
    """Where the pass that runs now writes. Shared by all layers.

    Attributes:
        slots: rows that new prompts go to, and `source`, the row of the pass that each of them takes.
        at: without `slots`, the position of each row's one new token [B]; `width` positions are seen.
    """

    slots: torch.Tensor | None = None
    source: torch.Tensor | None = None
    at: torch.Tensor | None = None
    width: int = 0
    room: tuple[int, int] = (0, 0)


class RowCache(Cache):
    """The cache of a batch, handed to a transformers model as `past_key_values`."""

    def __init__(self, layers: int) -> None:
        self._pass = _Pass()
        super().__init__(layers=[_Layer(self._pass) for _ in range(layers)])

    def prefill(self, slots: Sequence[int], source: Sequence[int], width: int, device: str) -> None:
        """Before a pass over whole prompts [B, width]: slot `slots[i]` takes row `source[i]` of it."""
        p = self._pass
        p.slots, p.source = torch.tensor(slots, device=device), torch.tensor(source, device=device)
        p.width, p.room = width, (max(slots) + 1, width)

    def decode(self, at: torch.Tensor, width: int) -> None:
        """Before a pass over one token of each row: `at` [B] are their positions, `width` the highest of them + 1."""
        p = self._pass
        p.slots, p.source, p.at, p.width, p.room = None, None, at, width, (len(at), width)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row over another one."""
        for keys, values in self._tensors():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def release(self) -> None:
        """Give the memory back."""
        for layer in self.layers:
            if isinstance(layer, _Layer):
                layer.keys = layer.values = None
                layer.is_initialized = False

    def _tensors(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        pairs = [(layer.keys, layer.values) for layer in self.layers if isinstance(layer, _Layer)]
        return [(k, v) for k, v in pairs if k is not None and v is not None]


class _Layer(CacheLayerMixin):
    is_sliding = False

    def __init__(self, shared: _Pass) -> None:
        super().__init__()
        self._pass = shared

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = (s.new_zeros((0, s.shape[1], 0, s.shape[3])) for s in (key_states, value_states))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.keys, self.values = _grown(self.keys, *self._pass.room), _grown(self.values, *self._pass.room)
        p = self._pass
        if p.slots is not None and p.source is not None:  # a prompt attends to itself alone
            self.keys[p.slots, :, : p.width] = key_states[p.source]
            self.values[p.slots, :, : p.width] = value_states[p.source]
            return key_states, value_states
        assert p.at is not None
        rows = torch.arange(len(p.at), device=p.at.device)
        self.keys[rows, :, p.at] = key_states[:, :, 0]
        self.values[rows, :, p.at] = value_states[:, :, 0]
        return self.keys[: len(rows), :, : p.width], self.values[: len(rows), :, : p.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0  # prompts start at the beginning; for single tokens the decoder brings its own mask

    def get_max_length(self) -> int:
        return -1


def _grown(old: torch.Tensor, rows: int, positions: int) -> torch.Tensor:
    """The same with room for more. Zeros, since what nobody attends to is still multiplied, by zero."""
    have_rows, heads, have_positions, size = old.shape
    if rows <= have_rows and positions <= have_positions:
        return old
    if rows > have_rows:
        rows = max(rows, min(2 * have_rows, have_rows + 16))
    if positions > have_positions:
        positions = -(-max(positions, have_positions + have_positions // 4) // _GRAIN) * _GRAIN
    new = old.new_zeros((max(rows, have_rows), heads, max(positions, have_positions), size))
    new[:have_rows, :, :have_positions] = old
    return new
