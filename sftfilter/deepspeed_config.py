"""From our settings to DeepSpeed's."""

from __future__ import annotations

from typing import Any, Literal

from sftfilter.training_settings import Execution, TrainingSettings


def backend(execution: Execution) -> Literal["nccl", "gloo"]:
    """What the workers talk through."""
    return "nccl" if execution.use_gpu else "gloo"


def attention(execution: Execution, bf16: bool, flash: bool) -> Literal["flash_attention_2", "sdpa", "eager"]:
    """Which of transformers' attentions keeps packed rows apart fastest.

    Args:
        flash: the package flash_attn is installed; it computes in 16 bits only.
    """
    if execution.use_gpu:
        return "flash_attention_2" if flash and bf16 else "sdpa"
    # Torch's fused CPU kernel is slow with a mask: plain attention gives 11 % more tokens/s on packed rows.
    return "eager"


def deepspeed_config(
    settings: TrainingSettings, execution: Execution, universal: bool = False, *, bf16: bool, accumulates: bool = False
) -> dict[str, Any]:
    """DeepSpeed's configuration; the batch itself is planned by us, so its batch keys are formal.

    Args:
        universal: the checkpoint that will be loaded is in DeepSpeed's universal layout.
        bf16: train bfloat16 parameters with a float32 copy in the optimizer.
        accumulates: a step may have several micro-batches, whose gradients are then added in float32. DeepSpeed has no such
            sum without ZeRO, and in stage 1 by another optimizer with other checkpoints: there it stays bfloat16.
    """
    zero: dict[str, Any] = {"stage": execution.zero_stage, "stage3_gather_16bit_weights_on_model_save": True}
    if execution.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if execution.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": bf16},
        "communication_data_type": "fp32",
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.learning_rate,
                "betas": [0.9, 0.999],
                "weight_decay": settings.weight_decay,
                # On CPU torch's own, in one pass over memory; DeepSpeed's would compile for 90 s first.
                **({} if execution.use_gpu else {"torch_adam": True, "fused": True}),
            },
        },
        "zero_optimization": zero,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if bf16 and accumulates and execution.zero_stage >= 2:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if universal:
        config["checkpoint"] = {"load_universal": True}
    return config
