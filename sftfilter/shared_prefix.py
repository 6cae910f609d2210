"""Sequences that begin alike are packed into one row, their common beginning once.

Scoring several continuations of a prompt then costs the prompt once. Every continuation sees the beginning and itself,
at the positions it would have alone, through an explicit attention mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PackedRow:
    """Some sequences in one row.

    Attributes:
        ids: the common beginning, then each sequence's rest.
        members: (index of the sequence, offset of its rest in `ids`).
        shared: tokens of the common beginning.
    """

    ids: list[int]
    members: list[tuple[int, int]]
    shared: int


def pack(sequences: Sequence[list[int]]) -> list[PackedRow]:
    """Group sequences whose common beginning is at least half of each of them."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    rows: list[PackedRow] = []
    group: list[int] = []
    shared = 0
    for i in order:
        common = _common(sequences[group[0]], sequences[i]) if group else len(sequences[i])
        depth = min(shared, common) if group else len(sequences[i])
        if group and 2 * depth < max(len(sequences[j]) for j in [*group, i]):
            rows.append(_row(sequences, group, shared))
            group, depth = [], len(sequences[i])
        group.append(i)
        shared = depth
    return [*rows, _row(sequences, group, shared)] if group else rows


def _common(a: list[int], b: list[int]) -> int:
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _row(sequences: Sequence[list[int]], group: list[int], shared: int) -> PackedRow:
    ids = list(sequences[group[0]][:shared])
    members: list[tuple[int, int]] = []
    for i in group:
        members.append((i, len(ids)))
        ids += sequences[i][shared:]
    return PackedRow(ids, members, shared)


def tensors(
    rows: Sequence[PackedRow], pad_id: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids [B, L], position ids [B, L] and additive attention mask [B, 1, L, L]."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    positions = torch.zeros_like(ids)
    allowed = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)  # padding sees itself, so no row is empty
    for k, row in enumerate(rows):
        ids[k, : len(row.ids)] = torch.tensor(row.ids)
        allowed[k, : row.shared, : row.shared] = torch.ones(row.shared, row.shared).tril().bool()
        positions[k, : row.shared] = torch.arange(row.shared)
        ends = [offset for _, offset in row.members[1:]] + [len(row.ids)]
        for (_, offset), end in zip(row.members, ends, strict=True):
            n = end - offset
            positions[k, offset:end] = torch.arange(row.shared, row.shared + n)
            allowed[k, offset:end, : row.shared] = True
            allowed[k, offset:end, offset:end] = torch.ones(n, n).tril().bool()
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    return ids, positions, mask[:, None]
