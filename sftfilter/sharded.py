"""A model in parts, one on each worker (ZeRO 3): loaded so, and made whole again one weight at a time.

No worker ever holds more of it on its device than its part and the layer at hand. The first one also reads the files and
collects what is exported, in the memory of its host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from sftfilter.checkpoint import adapted_weights, plain_name


@contextmanager
def loaded_in_parts(config: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, what transformers loads is cut into parts as it comes. All workers load together.

    Args:
        config: DeepSpeed's.
    """
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    deepspeed.init_distributed(dist_init_required=False)
    told = HfDeepSpeedConfig(dict(config))  # transformers goes by it for as long as it lives
    yield
    del told


def collected_weights(model: Any, precision: Literal["bf16", "fp32"]) -> dict[str, Tensor]:
    """As `checkpoint.merged_weights` of a model in parts: copies in the first worker's host memory, nothing on others.

    All workers call it.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    adapted = adapted_weights(base)
    made: dict[int, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in base.state_dict(keep_vars=True).items():
        if ".lora_" in name:
            continue
        plain = plain_name(name)
        if id(tensor) not in made:  # tensors that are one stay one
            made[id(tensor)] = _whole(tensor, adapted.get(plain), precision)
        found[plain] = made[id(tensor)]
    return found if dist.get_rank() == 0 else {}


def _whole(tensor: Tensor, adapted: Any, precision: Literal["bf16", "fp32"]) -> Tensor:
    """A weight and what its adapter adds; an empty tensor on all workers but the first."""
    parts = [tensor]
    if adapted is not None:
        parts += [adapted.lora_A["default"].weight, adapted.lora_B["default"].weight]
    with deepspeed.zero.GatheredParameters(parts), torch.no_grad():
        if dist.get_rank() != 0:
            return torch.empty(0)
        whole = tensor.detach()
        if adapted is not None:
            whole = whole + adapted.get_delta_weight("default").to(whole.dtype)
        rounds = precision == "bf16" and whole.dtype == torch.float32
        return whole.to("cpu", torch.bfloat16 if rounds else whole.dtype, copy=True)
