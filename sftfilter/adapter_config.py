"""Which adapters can be served from a base that other students share: plain LoRA on linear layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sftfilter.errors import DataError

# What would change the answer if it were there, and the values under which it is not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "alpha_pattern": (None, {}),
    "rank_pattern": (None, {}),
    "lora_bias": (None, False),
    "trainable_token_indices": (None, []),
    "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []),
    "use_rslora": (None, False),
    "target_parameters": (None, []),  # of experts
}


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """What peft says of an adapter.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not a readable LoRA adapter ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder}: not a readable LoRA adapter (adapter_config.json holds no object)")
    return config


def oddities(config: dict[str, Any]) -> list[str]:
    """What keeps an adapter from being served from a shared base; nothing for plain LoRA."""
    odd = [name for name, plain in _PLAIN.items() if config.get(name) not in plain]
    return odd if config.get("peft_type") == "LORA" else [*odd, f"type {config.get('peft_type')}"]
