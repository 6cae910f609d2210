"""Sequences that begin alike are packed into one row, their common beginning once.

Scoring several continuations of a prompt then costs the prompt once. Every continuation sees the beginning and itself,
at the positions it would have alone, through an explicit attention mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

_ROOM = 512
"""Tokens a packed row may always hold: attention costs the square of a row's length, the rest of a model the length."""


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
    """Group sequences whose common beginning is at least half of each of them, in rows that stay short."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    rows: list[PackedRow] = []
    group: list[int] = []
    shared = longest = total = 0
    for i in order:
        size = len(sequences[i])
        depth = min(shared, _common(sequences[group[0]], sequences[i])) if group else size
        longest, total = max(longest, size), total + size
        packed = total - depth * len(group)
        if group and (2 * depth < longest or packed > max(_ROOM, 2 * longest)):
            rows.append(_row(sequences, group, shared))
            group, depth, longest, total = [], size, size, size
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


def padded_ids(rows: Sequence[PackedRow], pad_id: int) -> torch.Tensor:
    """Token ids [B, L], padded on the right."""
    ids = torch.full((len(rows), max(len(row.ids) for row in rows)), pad_id)
    for k, row in enumerate(rows):
        ids[k, : len(row.ids)] = torch.tensor(row.ids)
    return ids


def sharing(rows: Sequence[PackedRow], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Position ids [B, L] and additive attention mask [B, 1, L, L]: each member sees the beginning and itself."""
    width = max(len(row.ids) for row in rows)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    allowed = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)  # padding sees itself, so no row is empty
    for k, row in enumerate(rows):
        allowed[k, : row.shared, : row.shared] = torch.ones(row.shared, row.shared).tril().bool()
        positions[k, : row.shared] = torch.arange(row.shared)
        ends = [offset for _, offset in row.members[1:]] + [len(row.ids)]
        for (_, offset), end in zip(row.members, ends, strict=True):
            n = end - offset
            positions[k, offset:end] = torch.arange(row.shared, row.shared + n)
            allowed[k, offset:end, : row.shared] = True
            allowed[k, offset:end, offset:end] = torch.ones(n, n).tril().bool()
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    return positions, mask[:, None]


def passes(sequences: Sequence[list[int]], tokens: int, *, share: bool = True) -> Iterator[list[PackedRow]]:
    """Rows for one forward pass after the other, longest first; those of a pass are about equally long.

    Args:
        tokens: that a pass may hold, padding counted; a row that is longer goes alone.
        share: pack sequences that begin alike into one row.
    """
    packed = pack(sequences) if share else [PackedRow(list(s), [(i, len(s))], len(s)) for i, s in enumerate(sequences)]
    rows = sorted(packed, key=lambda row: len(row.ids))
    while rows:
        count = max(1, min(len(rows), tokens // len(rows[-1].ids)))
        yield rows[-count:]
        del rows[-count:]
