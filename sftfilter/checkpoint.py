"""Students on disk: merged weights as Hugging Face safetensors, the adapter beside them, and a model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sftfilter.errors import TrainingError
from sftfilter.models import load_model, weights_hash

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sftfilter.chat_format import ChatFormat

ADAPTER = "adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


_SHARED = (
    "Equal rows, order, settings and seed are one training, so other arms and runs may use this student too: names, "
    "spec hash and intervention are those of the arm that it was first made for."
)


def save_student(
    model: Any,
    weights: Mapping[str, Tensor],
    chat: ChatFormat,
    folder: Path,
    job: Mapping[str, Any],
    config: Mapping[str, Any],
    losses: list[float],
    seconds: float,
) -> dict[str, Any]:
    """Write the checkpoint into `folder`; answers what the artifact's marker records.

    Args:
        model: its adapters whole.
        weights: see `Student.weights`.

    Raises:
        TrainingError: what was written is not what was trained, tensor by tensor.
    """
    if hasattr(model, "peft_config"):
        model.save_pretrained(folder / ADAPTER, safe_serialization=True)
        (folder / ADAPTER / "README.md").unlink(missing_ok=True)
        check_export(folder / ADAPTER, _adapter_weights(model))
    write_model(model, weights, chat, folder)
    (folder / "losses.json").write_text(json.dumps(losses))
    meta = {
        "model_hash": weights_hash(folder),
        "format_hash": config["format_hash"],
        "base_hash": config["base_hash"],
        "plan_hash": job["plan_hash"],
        "data_hash": job["data_hash"],
        "seed": job["seed"],
        "steps": len(losses),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "seconds": round(seconds, 2),
        "screened": job["settings"]["method"].get("top_layers") is not None,
        "settings": job["settings"],
        "labels": job["labels"],
    }
    (folder / "README.md").write_text(_card(meta))
    return meta


def merged_weights(model: Any, precision: Literal["bf16", "fp32"]) -> dict[str, Tensor]:
    """The weights under the base model's names, adapters added to what they adapt. The model stays as it is.

    Args:
        precision: of the result; where the CPU has no bfloat16 units, the model is trained in float32 and rounded here.
    """
    return each_weight(model, lambda weight, layer: merged(weight, layer, precision))


def each_weight(model: Any, make: Callable[[Tensor, Any], Tensor]) -> dict[str, Tensor]:
    """What `make` makes of every weight, by its name in the base model; weights that are one stay one.

    Args:
        make: is given a weight, and peft's layer that adapts it or None.
    """
    import torch

    base = model.get_base_model() if hasattr(model, "peft_config") else model
    layers = {
        _plain_name(f"{name}.{getattr(module, 'parameter_name', 'weight')}"): module
        for name, module in base.named_modules()
        if hasattr(module, "get_delta_weight") and "default" in getattr(module, "lora_A", ())
    }
    weights = {_plain_name(n): w for n, w in base.state_dict(keep_vars=True).items() if ".lora_" not in n}
    made: dict[int, Tensor] = {}
    with torch.no_grad():
        for name, weight in weights.items():
            if id(weight) not in made:
                made[id(weight)] = make(weight, layers.get(name))
    return {name: made[id(weight)] for name, weight in weights.items()}


def _plain_name(name: str) -> str:
    """A weight's name in the base model. Layers with several adapted weights, such as experts, are wrapped several times."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def merged(weight: Tensor, layer: Any, precision: Literal["bf16", "fp32"]) -> Tensor:
    """A whole weight and what its adapter, if any, adds to it."""
    import torch

    whole = weight.detach()
    if layer is not None:
        whole = whole + layer.get_delta_weight("default").to(whole.dtype)
    return whole.to(torch.bfloat16) if precision == "bf16" and whole.dtype == torch.float32 else whole


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In the host's memory; tensors that are one stay one."""
    copies: dict[int, Tensor] = {}
    for tensor in weights.values():
        if tensor.data_ptr() not in copies:
            copies[tensor.data_ptr()] = tensor.detach().to("cpu", copy=True)
    return {name: copies[tensor.data_ptr()] for name, tensor in weights.items()}


def _adapter_weights(model: Any) -> Mapping[str, Tensor]:
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model)


def write_model(model: Any, weights: Mapping[str, Tensor], chat: ChatFormat, folder: Path) -> None:
    """Weights, configuration and tokenizer, as transformers and vLLM load them; read back and compared.

    Raises:
        TrainingError: what was written is not what was given.
    """
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    plain.config.use_cache = True
    plain.save_pretrained(folder, state_dict=dict(weights))
    plain.config.use_cache = False
    _name_stop(folder, chat.stop_id)
    _name_dtype(folder, next(iter(weights.values())).dtype)
    chat.tokenizer.save_pretrained(folder)
    check_export(folder, weights, renamed=bool(getattr(plain, "_weight_conversions", None)))


def _name_stop(folder: Path, stop: int) -> None:
    """Servers end an answer where generation_config.json says: it names the token that was learned as well.

    In the file: transformers refuses to write what it finds fault with, once it is changed, though the base came so.
    """
    path = folder / "generation_config.json"
    if not path.exists():
        return
    config = json.loads(path.read_text())
    named = config.get("eos_token_id")
    known = named if isinstance(named, list) else [named] if named is not None else []
    if stop not in known:
        config["eos_token_id"] = [stop, *known]
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _name_dtype(folder: Path, dtype: torch.dtype) -> None:
    """transformers writes the dtype of the model in memory into config.json; this is the one of the file."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_export(folder: Path, weights: Mapping[str, Tensor], renamed: bool = False) -> None:
    """Read every tensor back.

    Args:
        renamed: transformers writes some of this model's weights under other names or in other pieces (experts, one by
            one); then all are compared as it loads them again.

    Raises:
        TrainingError: one is missing (unless it is tied to one that is there), empty, not finite or another.
    """
    import torch
    from safetensors import safe_open

    there: set[int] = set()
    seen: set[str] = set()
    others = False
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (not a dict)
                tensor, meant = handle.get_tensor(name), weights.get(name)
                if tensor.numel() == 0 or not bool(torch.isfinite(tensor).all()):
                    raise TrainingError(f"{file}: tensor '{name}' is empty or not finite; the checkpoint is not kept")
                if meant is None and renamed:
                    others = True
                    continue
                if meant is None or not torch.equal(tensor, meant.detach().cpu()):
                    raise TrainingError(f"{file}: tensor '{name}' is not what was trained; the checkpoint is not kept")
                there.add(meant.data_ptr())
                seen.add(name)
    if others:
        _check_loaded(folder, weights)
        return
    lost = [name for name, tensor in weights.items() if name not in seen and tensor.data_ptr() not in there]
    if lost or not seen:
        raise TrainingError(f"{folder}: {', '.join(lost) or 'every tensor'} is missing; the checkpoint is not kept")


def _check_loaded(folder: Path, weights: Mapping[str, Tensor]) -> None:
    import torch

    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    loaded = load_model(str(folder), dtype).state_dict()
    for name, meant in weights.items():
        if name not in loaded or not torch.equal(loaded[name], meant.detach().cpu()):
            raise TrainingError(f"{folder}: '{name}' is not loaded as it was trained; the checkpoint is not kept")


def _card(meta: Mapping[str, Any]) -> str:
    facts = {k: v for k, v in meta.items() if k not in ("labels", "settings")} | dict(meta["labels"])
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    settings = json.dumps(meta["settings"], indent=2)
    return f"# Student\n\n{_SHARED}\n\n| | |\n|---|---|\n{table}\n\n```json\n{settings}\n```\n"
