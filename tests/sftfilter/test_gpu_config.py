"""What would run on GPUs, written out: no GPU is needed to see that it changed."""

from __future__ import annotations

from typing import Any

import pytest

from sftfilter.deepspeed_config import attention, backend, deepspeed_config
from sftfilter.training_settings import Execution, TrainingSettings

GPU = Execution(use_gpu=True, workers=8)


def golden(zero: dict[str, Any]) -> dict[str, Any]:
    """The configuration around ZeRO's part."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "communication_data_type": "fp32",
        "optimizer": {"type": "AdamW", "params": {"lr": 5e-4, "betas": [0.9, 0.999], "weight_decay": 0.0}},
        "zero_optimization": {"stage3_gather_16bit_weights_on_model_save": True} | zero,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


@pytest.mark.parametrize(
    ("changes", "zero"),
    [
        ({"zero_stage": 2}, {"stage": 2}),
        ({"zero_stage": 3}, {"stage": 3}),
        (
            {"zero_stage": 2, "offload": "optimizer"},
            {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": True}},
        ),
        (
            {"zero_stage": 3, "offload": "all"},
            {
                "stage": 3,
                "offload_optimizer": {"device": "cpu", "pin_memory": True},
                "offload_param": {"device": "cpu", "pin_memory": True},
            },
        ),
    ],
)
def test_deepspeed_on_gpus(changes: dict[str, Any], zero: dict[str, Any]) -> None:
    import deepspeed

    config = deepspeed_config(TrainingSettings(), GPU.model_copy(update=changes), bf16=True)
    assert config == golden(zero)
    parsed = deepspeed.DeepSpeedConfig(
        {k: v for k, v in config.items() if k != "train_micro_batch_size_per_gpu"} | {"train_batch_size": 1}
    )
    assert parsed.zero_config.stage == changes["zero_stage"]
    assert parsed.bfloat16_config.enabled


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bfloat16_gradients_of_several_micro_batches_are_added_in_float32(stage: int) -> None:
    execution = GPU.model_copy(update={"zero_stage": stage})
    config = deepspeed_config(TrainingSettings(), execution, bf16=True, accumulates=True)
    assert config.get("data_types") == ({"grad_accum_dtype": "fp32"} if stage >= 2 else None)
    assert "data_types" not in deepspeed_config(TrainingSettings(), execution, bf16=False, accumulates=True)


def test_a_checkpoint_of_other_shards_is_loaded_universally() -> None:
    assert deepspeed_config(TrainingSettings(), GPU, True, bf16=True)["checkpoint"] == {"load_universal": True}


def test_cpus_use_torchs_fused_optimizer() -> None:
    params = deepspeed_config(TrainingSettings(), Execution(), bf16=False)["optimizer"]["params"]
    assert (params["torch_adam"], params["fused"]) == (True, True)


def test_attention_and_communication() -> None:
    assert (backend(GPU), backend(Execution())) == ("nccl", "gloo")
    assert attention(GPU, bf16=True, flash=True) == "flash_attention_2"
    assert attention(GPU, bf16=True, flash=False) == "sdpa"
    assert attention(GPU, bf16=False, flash=True) == "sdpa"
    assert attention(Execution(), bf16=True, flash=True) == "eager"
