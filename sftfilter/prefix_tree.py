"""Rows of a micro-batch as a tree of tokens: what several rows begin with (a system prompt, a question) is there once.

In a causal model the state at a token depends on the tokens before it only, so rows with the same beginning have the
same states there, and the gradients that reach them add up. Computing a shared beginning once changes no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

WASTE = 0.75
"""Rows attended together are padded to the longest of them, and none is shorter than this share of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation as token ids, and the positions of those that the loss is taken on (stop tokens included)."""

    ids: list[int]
    supervised: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Paths:
    """Rows of about equal length, for attention.

    Attributes:
        nodes: [rows, longest] the nodes that each row runs through; padded with node 0 behind its end, where
            causal attention lets no token of the row look.
    """

    nodes: torch.Tensor


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """T distinct tokens in their contexts.

    Attributes:
        ids: [T] token ids.
        positions: [T] place in the row, from 0.
        origin: [T] (row, position) of one row that holds the token.
        predict: [P] nodes whose next token is supervised; one may come up several times.
        targets: [P] the tokens to predict.
        paths: every row, grouped by length.
        sources: [T] where a node's attention output lies in the concatenation of the groups' outputs.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    origin: list[tuple[int, int]]
    predict: torch.Tensor
    targets: torch.Tensor
    paths: tuple[Paths, ...]
    sources: torch.Tensor


def grow(rows: Sequence[Row], device: torch.device) -> PrefixTree:
    """The tree of `rows`; its first node is the first token of the first row."""
    ids: list[int] = []
    positions: list[int] = []
    origin: list[tuple[int, int]] = []
    predict: list[int] = []
    targets: list[int] = []
    children: dict[tuple[int, int], int] = {}
    walks: list[list[int]] = []
    for number, row in enumerate(rows):
        node, walk = -1, []
        for position, token in enumerate(row.ids):
            node = children.setdefault((node, token), len(ids))
            if node == len(ids):
                ids.append(token)
                positions.append(position)
                origin.append((number, position))
            walk.append(node)
        walks.append(walk)
        predict += [walk[position - 1] for position in row.supervised]
        targets += [row.ids[position] for position in row.supervised]
    groups = _by_length(walks)
    sources = [0] * len(ids)
    start = 0
    for group in groups:
        longest = len(group[0])
        for number, walk in enumerate(group):
            for position, node in enumerate(walk):
                sources[node] = start + number * longest + position
        start += len(group) * longest
    return PrefixTree(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        origin=origin,
        predict=torch.tensor(predict, device=device),
        targets=torch.tensor(targets, device=device),
        paths=tuple(Paths(torch.tensor([w + [0] * (len(g[0]) - len(w)) for w in g], device=device)) for g in groups),
        sources=torch.tensor(sources, device=device),
    )


def _by_length(walks: Sequence[list[int]]) -> list[list[list[int]]]:
    """Longest first, in groups."""
    groups: list[list[list[int]]] = []
    for walk in sorted(walks, key=len, reverse=True):
        if groups and len(walk) >= WASTE * len(groups[-1][0]):
            groups[-1].append(walk)
        else:
            groups.append([walk])
    return groups
