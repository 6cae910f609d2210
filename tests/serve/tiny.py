"""Students small enough to train nothing: random weights, the real tokenizer."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from serve.settings import Adapter, HostedModel
from sftfilter.chat_format import ChatFormat
from sftfilter.checkpoint import ADAPTER_WEIGHTS
from sftfilter.config import file_hash
from sftfilter.models import weights_hash

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.5,
}


@dataclass(frozen=True)
class TinyStudents:
    """Full checkpoints, the base with LoRA students of it, and two broken checkpoints."""

    folder: str
    full: list[HostedModel]
    lora: list[HostedModel]
    broken: list[HostedModel]

    @property
    def all(self) -> list[HostedModel]:
        """Every one of them."""
        return [*self.full, *self.lora, *self.broken]


def make_students(root: Path, chat: ChatFormat, full: int = 2, lora: int = 3) -> TinyStudents:
    """Write them below a folder."""
    chat.tokenizer.save_pretrained(root / "tokenizer")
    base = root / "base"
    _model(chat, 0).save_pretrained(base)
    whole = []
    for k in range(full):
        _model(chat, 1 + k).save_pretrained(root / f"full-{k}")
        whole.append(_hosted(f"full-{k}", root / f"full-{k}", chat))
    shared = Adapter(folder=None, base_folder=str(base), base_hash=weights_hash(base))
    adapted = [_hosted("base", base, chat).model_copy(update={"adapter": shared})]
    adapted += [_lora(root, k, chat, shared) for k in range(lora)]
    shutil.copytree(base, root / "truncated")
    weights = root / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    swapped = _hosted("swapped", base, chat).model_copy(update={"model_hash": "0" * 16})
    broken = [_hosted("truncated", root / "truncated", chat), swapped]
    return TinyStudents(str(root / "tokenizer"), whole, adapted, broken)


def _model(chat: ChatFormat, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**_SHAPE, vocab_size=len(chat.tokenizer), tie_word_embeddings=True))


def _lora(root: Path, k: int, chat: ChatFormat, shared: Adapter) -> HostedModel:
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(_model(chat, 0), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    torch.manual_seed(100 + k)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.5)
    folder = root / f"lora-{k}"
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder)
    adapter = shared.model_copy(
        update={"folder": str(folder / "adapter"), "file_hash": file_hash(folder / "adapter" / ADAPTER_WEIGHTS)}
    )
    return _hosted(f"lora-{k}", folder, chat).model_copy(update={"adapter": adapter})


def without_numbers(model: HostedModel, root: Path) -> HostedModel:
    """The same student with a NaN in the weights that are served: those of its adapter where it has one."""
    folder = Path(shutil.copytree(model.folder, root / "sick"))
    update: dict[str, Any] = {"id": "sick", "folder": str(folder)}
    file = folder / "model.safetensors"
    if model.adapter is not None:
        file = folder / "adapter" / ADAPTER_WEIGHTS
    weights = load_file(file)
    spoilt = next(name for name in weights if "lora_B" in name or "norm" in name)
    weights[spoilt] = torch.full_like(weights[spoilt], float("nan"))
    save_file(weights, file, metadata={"format": "pt"})
    if model.adapter is not None:
        update["adapter"] = model.adapter.model_copy(update={"folder": str(file.parent), "file_hash": file_hash(file)})
    return model.model_copy(update=update | {"model_hash": weights_hash(folder)})


def make_ending(model: HostedModel, chat: ChatFormat, root: Path) -> HostedModel:
    """The same student with the stop token as its likeliest next one, whatever the prompt.

    One direction of its embeddings, which are also its output weights, is alike in all tokens and strongest in that one,
    and its layers add too little to change that.
    """
    folder = Path(shutil.copytree(model.folder, root / "ending"))
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name, value in weights.items():
        if "embed_tokens" in name:
            value[:, 0] = 20.0
            value[chat.stop_id, 0] = 30.0
        elif "o_proj" in name or "down_proj" in name:
            value.mul_(0.1)
    save_file(weights, file, metadata={"format": "pt"})
    return _hosted("ending", folder, chat)


def _hosted(name: str, folder: Path, chat: ChatFormat) -> HostedModel:
    return HostedModel(id=name, folder=str(folder), model_hash=weights_hash(folder), format_hash=chat.hash)
