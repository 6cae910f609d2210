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
from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator
from torch import Tensor

from sftfilter.checkpoint import each_weight, merged


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
    """As `merged_weights`, of a model in parts: copies in the first worker's host memory, nothing on others.

    All workers call it.
    """

    def whole(weight: Tensor, layer: Any) -> Tensor:
        parts = [weight] if layer is None else [weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        with deepspeed.zero.GatheredParameters(parts):
            return merged(weight, layer, precision).to("cpu", copy=True) if dist.get_rank() == 0 else torch.empty(0)

    found = each_weight(model, whole)
    return found if dist.get_rank() == 0 else {}


def forget_sharded() -> None:
    """Let go of models in parts that are done with: DeepSpeed keeps each on a stack, and as keys of one method's cache."""
    FWD_MODULE_STACK.clear()
    method = vars(PartitionedParameterCoordinator).get("_PartitionedParameterCoordinator__params_to_release")
    for cell in getattr(method, "__closure__", None) or ():
        if clear := getattr(cell.cell_contents, "cache_clear", None):
            clear()
