"""Model FLOPs utilisation: the products that a training step needs, against the rate at which this hardware multiplies
matrices of the same shapes.

What is counted is what a plain dense pass would compute (PaLM, arXiv 2204.02311, appendix B): two FLOPs for each weight of a linear
layer and token on the way forward, as many for the gradient of its input where something at or below it is trained, and as
many again for its own where it is; the output layer on supervised tokens only. Layers whose output is kept from one step
to the next (`lower_states`) take nothing. Attention's own products are left out, which short rows hardly notice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

_TOKENS = 512
_MEASURED_S = 0.1


@dataclass(frozen=True)
class StepFlops:
    """FLOPs that training takes for each token, and for each supervised one."""

    token: float
    supervised: float

    def of(self, tokens: int, supervised: int) -> float:
        """Of a step."""
        return tokens * self.token + supervised * self.supervised


def step_flops(model: torch.nn.Module, kept_below: bool = False) -> StepFlops:
    """Of a model with its adapters, if any, as it is trained.

    Args:
        kept_below: what enters the lowest trained layer is kept, not computed in every step.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # pyright: ignore
    token = supervised = 0.0
    reached = False  # something trained, in the order in which models list their layers: from the bottom
    for module in model.modules():
        own = module.parameters(recurse=hasattr(module, "base_layer"))  # an adapter is listed after what it adapts
        reached = reached or any(p.requires_grad for p in own)
        if not isinstance(module, torch.nn.Linear):
            continue
        weight: Any = module.weight
        size = getattr(weight, "ds_numel", weight.numel())  # ZeRO 3 keeps a part of it here
        below = 0.0 if kept_below else 2.0
        flops = (6.0 if weight.requires_grad else 4.0 if reached else below) * size
        if module is head:
            supervised += flops
        else:
            token += flops
    return StepFlops(token, supervised)


def product_rate(model: torch.nn.Module, device: torch.device) -> float:
    """FLOP/s of all workers together at products of the shapes of the model's layers, measured on all of them at once.

    All workers call it. It takes about a tenth of a second for each shape.
    """
    from torch.utils.benchmark import Timer

    shapes = Counter(
        (m.in_features, m.out_features) for m in model.modules() if isinstance(m, torch.nn.Linear) and _is_large(m)
    )
    dtype = next(model.parameters()).dtype
    if dist.is_initialized():
        dist.barrier()
    flops = seconds = 0.0
    for (inputs, outputs), count in sorted(shapes.items()):
        x = torch.randn(_TOKENS, inputs, dtype=dtype, device=device)
        w = torch.randn(outputs, inputs, dtype=dtype, device=device)
        timer = Timer(
            "linear(x, w)",
            globals={"x": x, "w": w, "linear": torch.nn.functional.linear},
            num_threads=torch.get_num_threads(),
        )
        seconds += count * timer.blocked_autorange(min_run_time=_MEASURED_S).median
        flops += count * 2.0 * _TOKENS * inputs * outputs
    rate = torch.tensor([flops / seconds if seconds else 0.0], dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(rate)
    return float(rate)


def _is_large(module: torch.nn.Linear) -> bool:
    """A layer of the model itself; adapters and output layers would say more of memory than of multiplying."""
    return min(module.in_features, module.out_features) >= 32 and max(module.in_features, module.out_features) < 2**15
