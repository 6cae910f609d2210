"""What is exported is what was trained: each way to differ is refused, in the model and in the adapter beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sftfilter.chat_format import ChatFormat
from sftfilter.checkpoint import ADAPTER_WEIGHTS, check_export, merged_weights, save_student
from sftfilter.errors import TrainingError
from sftfilter.models import load_model, load_tokenizer
from sftfilter.training_settings import Lora
from sftfilter.warm_base import with_adapters

JOB: dict[str, Any] = {
    "plan_hash": "plan",
    "data_hash": "data",
    "seed": 1,
    "settings": {"method": {}, "precision": "fp32"},
    "labels": {"arm": "a", "spec_hash": "spec", "intervention": None, "parent_model": "tiny"},
}
CONFIG = {"format_hash": "format", "base_hash": "base"}
QUERY = "self_attn.q_proj"


@pytest.fixture
def chat(tiny_chat_model: Path) -> ChatFormat:
    return ChatFormat(load_tokenizer(str(tiny_chat_model)), None)


@pytest.fixture
def model(tiny_chat_model: Path) -> Any:
    adapted = with_adapters(load_model(str(tiny_chat_model), "float32"), Lora(rank=2))
    for name, p in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(p, std=0.2)
    return adapted


def damaged(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """The file written again, changed."""
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def bend(tensors: dict[str, torch.Tensor]) -> None:
    """One weight is another by its last bit."""
    tensor = next(tensor for name, tensor in tensors.items() if QUERY in name)
    tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0], torch.tensor(9.0))


def spoil(tensors: dict[str, torch.Tensor]) -> None:
    """One weight is not a number."""
    next(tensor for name, tensor in tensors.items() if QUERY in name).view(-1)[0] = float("nan")


def lose(tensors: dict[str, torch.Tensor]) -> None:
    """One tensor is not there."""
    del tensors[next(name for name in tensors if QUERY in name)]


def empty(tensors: dict[str, torch.Tensor]) -> None:
    """One tensor has nothing in it."""
    tensors[next(name for name in tensors if QUERY in name)] = torch.zeros(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bend, r"tensor '.*q_proj.*' is not what was trained"),
        (spoil, r"tensor '.*q_proj.*' is empty or not finite"),
        (empty, r"tensor '.*q_proj.*' is empty or not finite"),
        (lose, r"q_proj.* is missing"),
        (dict.clear, r"every tensor is missing|is missing"),
    ],
)
def test_an_export_that_differs_is_refused(
    tiny_chat_model: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    weights = load_model(str(tiny_chat_model), "float32").state_dict()
    file = tmp_path / "model.safetensors"
    save_file({name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}, file)
    check_export(tmp_path, weights)
    damaged(file, change)
    with pytest.raises(TrainingError, match=message + r".*the checkpoint is not kept"):
        check_export(tmp_path, weights)


@pytest.mark.parametrize("change", [bend, lose])
def test_an_adapter_that_differs_is_refused(
    model: Any, chat: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any]
) -> None:
    write = model.save_pretrained

    def written_badly(folder: Path, **options: Any) -> None:
        write(folder, **options)
        damaged(folder / ADAPTER_WEIGHTS, change)

    monkeypatch.setattr(model, "save_pretrained", written_badly)
    with pytest.raises(TrainingError, match=r"adapter.*q_proj.* is (not what was trained|missing)"):
        save_student(model, merged_weights(model, "fp32"), chat, tmp_path, JOB, CONFIG, [1.0], 1.0)


def test_the_card_says_where_a_student_comes_from(model: Any, chat: ChatFormat, tmp_path: Path) -> None:
    meta = save_student(model, merged_weights(model, "fp32"), chat, tmp_path, JOB, CONFIG, [2.0, 1.0], 1.0)
    card = (tmp_path / "README.md").read_text()
    told = {name: meta[name] for name in ("model_hash", "format_hash", "base_hash", "plan_hash", "data_hash", "seed")}
    for fact, value in (told | JOB["labels"]).items():
        assert f"| {fact} | {value} |" in card
