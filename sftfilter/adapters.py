"""LoRA adapters of different students in one forward pass over a shared base (as S-LoRA and Punica do on GPUs).

Every adapted linear layer adds each row's own x A B. Rows are grouped by adapter, groups padded to one size, so that a
layer costs two batched products however many adapters take part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from sftfilter.adapter_config import oddities, read_adapter_config
from sftfilter.checkpoint import ADAPTER_WEIGHTS
from sftfilter.errors import DataError

Weights = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Module -> (A [in, r], B [r, out], the scale in it)."""

_PADDING = 8
"""How much larger than the batch its groups may become."""

_PREFIX = "base_model.model."


def read_adapter(folder: str | Path, model: Any) -> Weights:
    """An adapter's weights in the model's type, on its device.

    Raises:
        DataError: it is no plain LoRA adapter, or not one of this model's.
    """
    from safetensors.torch import load_file

    path = Path(folder)
    config = read_adapter_config(path)
    try:
        tensors = load_file(path / ADAPTER_WEIGHTS)
    except Exception as error:  # readers of broken files raise a dozen unrelated types
        raise DataError(f"{path}: not a readable LoRA adapter ({type(error).__name__})") from error
    if odd := oddities(config):
        raise DataError(
            f"{path}: only plain LoRA is served from a shared base, and it has {', '.join(odd)}: set serving.share_base: false"
        )
    scale = config["lora_alpha"] / config["r"]
    sizes = {name: size for name, module in model.named_modules() if (size := _size(module))}
    weights: Weights = {}
    for key, a in tensors.items():
        name, _, part = key.removeprefix(_PREFIX).partition(".lora_")
        if part == "B.weight":
            continue
        if part != "A.weight":
            raise DataError(
                f"{path}: '{key}' is of no linear layer, and only those are served from a shared base: set serving.share_base: false"
            )
        b = tensors[f"{_PREFIX}{name}.lora_B.weight"]
        if (a.shape[1], b.shape[0]) != sizes.get(name):
            raise DataError(f"{path}: '{name}' is no layer of this base, or of another size")
        weight = model.get_submodule(name).weight
        where = {"dtype": weight.dtype, "device": weight.device}
        weights[name] = (a.T.to(**where).contiguous(), (b.T.float() * scale).to(**where).contiguous())
    if not weights:
        raise DataError(f"{path}: holds no LoRA weights")
    return weights


def _size(module: torch.nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer; GPT-2's have their weights the other way round."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        inputs, outputs = module.weight.shape
        return inputs, outputs
    return None


class AdapterBank:
    """The adapters that sit on one model, and which rows of the next pass belong to which.

    Attributes:
        weights: adapter -> its weights; the longest unused first.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.weights: dict[str, Weights] = {}
        self._hooked: set[str] = set()
        self._one: str | None = None
        self._several = False
        self._groups: tuple[str | None, ...] = ()
        self._stacks: dict[str, tuple[torch.Tensor, torch.Tensor] | None] = {}
        self._gather = self._scatter = torch.empty(0)

    def add(self, name: str, weights: Weights) -> None:
        """Take an adapter in."""
        self.weights[name] = weights
        modules = dict(self.model.named_modules())
        for layer in weights.keys() - self._hooked:
            modules[layer].register_forward_hook(self._hook(layer))
            self._hooked.add(layer)

    def drop(self, name: str) -> None:
        """Let an adapter go; no row may use it any more."""
        del self.weights[name]
        self._one = None
        if name in self._groups:
            self._groups, self._stacks = (), {}

    def use_one(self, name: str | None) -> None:
        """All rows of the next passes belong to one adapter; None is the model itself."""
        if name is not None:
            self.weights[name] = self.weights.pop(name)  # the most recently used last
        self._one, self._several = name, False

    def use(self, rows: Sequence[str | None]) -> None:
        """Name the adapter of each row of the next passes; None is the model itself."""
        named = set(rows)
        if len(named) == 1:
            self.use_one(named.pop())
            return
        for name in named:
            if name is not None:
                self.weights[name] = self.weights.pop(name)
        largest = max(Counter(rows).values())
        # Stacking copies weights, so groups without a row are kept as long as their padding is cheap.
        if not named <= set(self._groups) or len(self._groups) * largest > _PADDING * len(rows):
            kept = {name for name in self._groups if name is None or name in self.weights}
            groups = named | kept if len(named | kept) <= 2 * len(named) else named
            self._groups, self._stacks = tuple(sorted(groups, key=str)), {}
        members: dict[str | None, list[int]] = {name: [] for name in self._groups}
        for i, name in enumerate(rows):
            members[name].append(i)
        place = {i: g * largest + k for g, many in enumerate(members.values()) for k, i in enumerate(many)}
        gather = [0] * (len(self._groups) * largest)
        for i, at in place.items():
            gather[at] = i
        self._several = True
        self._gather = torch.tensor(gather, device=self.model.device)
        self._scatter = torch.tensor([place[i] for i in range(len(rows))], device=self.model.device)

    def _hook(self, layer: str) -> Any:
        def add_own(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            own = self._of_several(layer, inputs[0]) if self._several else self._of_one(layer, inputs[0])
            return None if own is None else output + own

        return add_own

    def _of_one(self, layer: str, x: torch.Tensor) -> torch.Tensor | None:
        pair = self.weights[self._one].get(layer) if self._one is not None else None
        return None if pair is None else x @ pair[0] @ pair[1]

    def _of_several(self, layer: str, x: torch.Tensor) -> torch.Tensor | None:
        """Each row's x A B, for x [B, L, in]."""
        if layer not in self._stacks:
            self._stacks[layer] = self._stack(layer)
        stack = self._stacks[layer]
        if stack is None:
            return None
        a, b = stack
        grouped = x[self._gather].reshape(len(a), -1, x.shape[-1])
        return torch.bmm(torch.bmm(grouped, a), b).reshape(-1, x.shape[1], b.shape[-1])[self._scatter]

    def _stack(self, layer: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A [G, in, r] and B [G, r, out] of the groups; zeros where one does not adapt the layer or has a lower rank."""
        own = [self.weights[name].get(layer) if name else None for name in self._groups]
        present = [pair for pair in own if pair is not None]
        if not present:
            return None
        rank = max(a.shape[1] for a, _ in present)
        first, second = present[0]
        a = first.new_zeros((len(own), first.shape[0], rank))
        b = second.new_zeros((len(own), rank, second.shape[1]))
        for g, pair in enumerate(own):
            if pair is not None:
                r = pair[0].shape[1]
                a[g, :, :r], b[g, :r] = pair
        return a, b
