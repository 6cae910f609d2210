"""Per-row loss gradients of a causal LM's linear layers, randomly projected without ever being written out.

For a linear layer with weight W [out, in] the gradient of one row's loss is sum_t delta_t x_t^T, with x_t [in] what goes
into the layer at token t and delta_t [out] the loss's derivative by what comes out. So its projection P_out G P_in^T
[k, k] is the sum of outer products of the projected sides, and neither a [out, in] gradient nor a large projection matrix
is made. This is the Kronecker-structured projection of LoGra (Choe et al. 2024, arXiv:2405.13954, section 4), used here
as TRAK (Park et al. 2023, arXiv:2303.14186) and LESS (Xia et al. 2024, arXiv:2402.04333) use unstructured ones.
Inner products are kept in expectation, with a relative error of the order of 1/k a layer.

It is also the LoRA gradient at the start of training: with B = 0 and A = P_in Gaussian, the gradient of A is zero and that
of B is sum_t delta_t (A x_t)^T, here projected once more on its output side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from sftfilter.config import stable_hash
from sftfilter.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sftfilter.scorers.language_model import Answer

_VOCABULARY_ROWS = 512
"""Positions that meet the vocabulary at once: 100 MB of logits for a vocabulary of 49,152."""


@dataclass
class _Site:
    """A linear layer that is watched, with its projections ([in, k] and [out, k]; None: none)."""

    layer: torch.nn.Linear
    inner: torch.Tensor | None
    outer: torch.Tensor | None
    seen: torch.Tensor | None = None
    gradient: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Numbers that a row's projected gradient has."""
        rows = self.layer.out_features if self.outer is None else self.outer.shape[1]
        columns = self.layer.in_features if self.inner is None else self.inner.shape[1]
        return rows * columns


@dataclass
class ProjectedGradients:
    """A model that answers with gradients.

    Attributes:
        model: a decoder-only causal LM; its weights are frozen by this.
        rank: k, of the projections of either side; None projects nothing (exact, for small models).
        last_blocks: only the linear layers of so many last decoder blocks; None: of all. The backward pass ends there.
        seed: of the projections.
        pad_id: token that fills short rows up.
    """

    model: PreTrainedModel
    rank: int | None
    last_blocks: int | None = None
    seed: int = 0
    pad_id: int = 0
    _sites: list[_Site] = field(default_factory=list, init=False, repr=False)
    _entry: torch.nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)
        blocks = decoder_blocks(self.model)
        watched = blocks[-self.last_blocks :] if self.last_blocks else blocks
        self._entry = watched[0]
        named = [(n, m) for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)]
        inside = {id(m) for block in watched for m in block.modules()}
        for name, layer in named:
            if id(layer) in inside:
                inner = self._projection(f"{name}/in", layer.in_features)
                outer = self._projection(f"{name}/out", layer.out_features)
                self._sites.append(_Site(layer, inner, outer))
        if not self._sites:
            raise DataError("gradient influence: the model's decoder blocks hold no torch.nn.Linear layer")

    @property
    def size(self) -> int:
        """Numbers in a projected gradient."""
        return sum(site.size for site in self._sites)

    def of(self, rows: Sequence[Answer]) -> torch.Tensor:
        """Projected gradients [rows, size] (float32, on the model's device) of each row's summed loss in nats.

        Rows are padded to the longest; causal attention keeps what is on the right of a row out of its gradient.
        """
        device = self.model.device
        width = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
        at = [(i, p) for i, row in enumerate(rows) for p in range(len(row.prompt) - 1, len(row.ids) - 1)]
        batch, position = torch.tensor(at).T
        targets = ids[batch, position + 1].to(device)
        with torch.enable_grad(), self._watching():
            decoder: Any = self.model.get_decoder()
            hidden = decoder(input_ids=ids.to(device), use_cache=False).last_hidden_state
            hidden.backward(self._hidden_gradient(hidden.detach(), batch.to(device), position.to(device), targets))
            return torch.cat([self._taken(site) for site in self._sites], dim=1)

    def _hidden_gradient(
        self, hidden: torch.Tensor, batch: torch.Tensor, position: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Derivative of the summed loss by the last hidden states, some positions at a time."""
        gradient = torch.zeros_like(hidden)
        head: Any = self.model.get_output_embeddings()
        for first in range(0, len(targets), _VOCABULARY_ROWS):
            part = slice(first, first + _VOCABULARY_ROWS)
            states = hidden[batch[part], position[part]].requires_grad_()
            loss = cross_entropy(head(states).float(), targets[part], reduction="sum")
            gradient[batch[part], position[part]] = torch.autograd.grad(loss, states)[0]
        return gradient

    @contextmanager
    def _watching(self) -> Iterator[None]:
        def enter(_: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            # The graph begins here: every weight is frozen, and nothing below has to be gone back through.
            return (arguments[0].detach().requires_grad_(), *arguments[1:]), named

        handles = [self._entry.register_forward_pre_hook(enter, with_kwargs=True)]
        for site in self._sites:

            def leave(_: torch.nn.Module, given: tuple[torch.Tensor], out: torch.Tensor, site: _Site = site) -> None:
                site.seen = _project(given[0].detach(), site.inner)
                out.register_hook(lambda delta: _note(site, delta))

            handles.append(site.layer.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for site in self._sites:
                site.seen = site.gradient = None

    def _taken(self, site: _Site) -> torch.Tensor:
        if site.gradient is None:
            raise DataError("gradient influence: a linear layer of the model took no part in its answer")
        return site.gradient.flatten(1)

    def _projection(self, name: str, size: int) -> torch.Tensor | None:
        if self.rank is None or self.rank >= size:
            return None
        # Drawn on the CPU, so that it is the same on every device.
        generator = torch.Generator().manual_seed(int(stable_hash([self.seed, name]), 16) % 2**63)
        drawn = torch.randn(size, self.rank, generator=generator) / math.sqrt(self.rank)
        return drawn.to(self.model.device)


def _project(side: torch.Tensor, projection: torch.Tensor | None) -> torch.Tensor:
    side = side.float()
    return side if projection is None else side @ projection


def _note(site: _Site, delta: torch.Tensor) -> None:
    assert site.seen is not None
    outer = _project(delta.detach(), site.outer)
    site.gradient = torch.einsum("bto,bti->boi", outer, site.seen)


def decoder_blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The model's decoder blocks, first to last: its longest list of modules.

    Raises:
        DataError: it has none.
    """
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    if not lists:
        raise DataError("the model holds no list of decoder blocks")
    return list(max(lists, key=len))
