"""In which number format products are computed: what the spec says, unless the hardware would only emulate it."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist


def arithmetic(precision: Literal["bf16", "fp32"], device: torch.device) -> Literal["bfloat16", "float32"]:
    """A torch dtype's name, the same on every worker.

    A CPU without bfloat16 units emulates them, at an eighth of its float32 rate (AVX2, measured): there a bf16 student
    is computed in float32, which rounds less, and its checkpoint is bfloat16 all the same.
    """
    if precision == "fp32":
        return "float32"
    native = device.type != "cpu" or has_bf16_units()
    if dist.is_initialized() and dist.get_world_size() > 1:
        everywhere = torch.tensor([int(native)], device=device)
        dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
        native = bool(everywhere.item())
    return "bfloat16" if native else "float32"


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16, AMX, Arm BF16)."""
    found = torch.cpu.get_capabilities()
    return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def fast_dtype(device: str) -> Literal["bfloat16", "float16", "float32"]:
    """The smallest type that a device (a torch device's name) multiplies natively."""
    if device == "cpu":
        return "bfloat16" if has_bf16_units() else "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
