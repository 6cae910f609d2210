"""Students on disk: merged weights as Hugging Face safetensors, the adapter beside them, and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.errors import TrainingError
from sftfilter.models import weights_hash

if TYPE_CHECKING:
    from sftfilter.chat_format import ChatFormat

ADAPTER = "adapter"


def save_student(
    model: Any,
    chat: ChatFormat,
    folder: Path,
    job: Mapping[str, Any],
    config: Mapping[str, Any],
    losses: list[float],
    seconds: float,
) -> dict[str, Any]:
    """Write the checkpoint into `folder`; answers what the artifact's marker records.

    Raises:
        TrainingError: the export holds an empty tensor, as ungathered ZeRO-3 shards are.
    """
    merged = model
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(folder / ADAPTER, safe_serialization=True)
        (folder / ADAPTER / "README.md").unlink(missing_ok=True)
        merged = model.merge_and_unload()
    merged.config.use_cache = True
    merged.save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    check_export(folder)
    (folder / "losses.json").write_text(json.dumps(losses))
    meta = {
        "model_hash": weights_hash(folder),
        "format_hash": config["format_hash"],
        "base_hash": config["base_hash"],
        "plan_hash": job["plan_hash"],
        "seed": job["seed"],
        "steps": len(losses),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "seconds": round(seconds, 2),
        "settings": job["settings"],
        "labels": job["labels"],
    }
    (folder / "README.md").write_text(_card(meta))
    return meta


def check_export(folder: Path) -> None:
    """Refuse a checkpoint with zero-size or non-finite tensors."""
    import torch
    from safetensors import safe_open

    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (not a dict)
                tensor = handle.get_tensor(name)
                if tensor.numel() == 0 or not bool(torch.isfinite(tensor).all()):
                    raise TrainingError(f"{file}: tensor '{name}' is empty or not finite; the checkpoint is not kept")


def _card(meta: Mapping[str, Any]) -> str:
    facts = {k: v for k, v in meta.items() if k not in ("labels", "settings")} | dict(meta["labels"])
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    settings = json.dumps(meta["settings"], indent=2)
    return f"# Student\n\n| | |\n|---|---|\n{table}\n\n```json\n{settings}\n```\n"
