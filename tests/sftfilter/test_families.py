"""Students of many kinds of models: what is exported, merged and as an adapter, answers as what was trained."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sftfilter.adapter_config import oddities, read_adapter_config
from sftfilter.adapters import AdapterBank, read_adapter
from sftfilter.chat_format import ChatFormat
from sftfilter.checkpoint import ADAPTER, save_student
from sftfilter.errors import DataError, TrainingError
from sftfilter.models import load_model, load_tokenizer
from sftfilter.training_settings import Lora, TrainingSettings
from tests.sftfilter.student_case import QWEN, Begin, one_worker, random_model, some_rows
from tests.training_case import FULL, LORA

GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "gemma3_text": {"head_dim": 8},
    "gpt2": GPT,
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "phi3": {"pad_token_id": 0},
    "qwen3": {"head_dim": 8},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": EXPERTS,
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8},
    "qwen3_5_text": QWEN,
    "mamba": {},
}


@pytest.fixture(scope="module")
def chat(tiny_chat_model: Path) -> ChatFormat:
    return ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief.")


@pytest.fixture(scope="module")
def begin(chat: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begin]:
    with one_worker(chat, tmp_path_factory.mktemp("group") / "store") as start:
        yield start


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([some_rows()[1].ids])).logits.float()


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("settings", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_exported_answers_as_what_was_trained(
    begin: Begin, chat: ChatFormat, tmp_path: Path, family: str, settings: TrainingSettings, stage: int
) -> None:
    base = random_model(family, tmp_path / "base", chat, **FAMILIES[family])
    if family == "mamba" and settings is LORA:  # peft refuses its other layers
        settings = LORA.model_copy(update={"method": Lora(rank=4, alpha=8, targets=["in_proj", "x_proj"])})
    student = begin(base, settings, zero_stage=stage)
    before = logits(student.engine)
    for _ in range(3):
        student.step(some_rows())
    trained = logits(student.engine)
    job = {"plan_hash": "p", "data_hash": "d", "seed": 1, "labels": {}, "settings": settings.model_dump(mode="json")}
    weights = student.weights()
    with student.whole_adapters():
        config = {"format_hash": "f", "base_hash": "b"}
        save_student(student.model, weights, chat, tmp_path / "student", job, config, [1.0], 1.0)
    student.close()
    merged = logits(load_model(str(tmp_path / "student"), "float32"))
    assert (trained - before).abs().max() > 1e-2
    assert (merged - trained).abs().max() < 1e-4
    if settings is not FULL:
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(load_model(base, "float32"), str(tmp_path / "student" / ADAPTER))
        assert (logits(adapted) - trained).abs().max() < 1e-4
        plain = load_model(base, "float32")
        if oddities(read_adapter_config(tmp_path / "student" / ADAPTER)):
            assert family in {"mixtral", "qwen3_moe", "gpt_oss"}, "experts are served merged"
            with pytest.raises(DataError, match=r"target_parameters: set serving\.share_base: false"):
                read_adapter(tmp_path / "student" / ADAPTER, plain)
        else:
            bank = AdapterBank(plain)
            bank.add("student", read_adapter(tmp_path / "student" / ADAPTER, plain))
            bank.use_one("student")
            assert (logits(plain) - trained).abs().max() < 1e-4


def test_a_model_that_adapters_do_not_fit_is_refused(begin: Begin, chat: ChatFormat, tmp_path: Path) -> None:
    base = random_model("mamba", tmp_path / "base", chat)
    with pytest.raises(
        TrainingError, match=r"training\.method\.targets: all-linear does not fit Mamba.*Name the modules"
    ):
        begin(base, LORA, zero_stage=2)


@pytest.mark.parametrize("end", ["lm_head", "embed_tokens"])
def test_adapters_on_embeddings_are_refused(begin: Begin, chat: ChatFormat, tmp_path: Path, end: str) -> None:
    base = random_model("llama", tmp_path / "base", chat, tie_word_embeddings=False)
    settings = LORA.model_copy(update={"method": Lora(rank=4, alpha=8, targets=["q_proj", end])})
    with pytest.raises(TrainingError, match=rf"training\.method\.targets: '.*{end}' holds embeddings.*kind: full"):
        begin(base, settings, zero_stage=2)


def test_an_adapter_of_other_layers_than_linear_ones_is_not_served(chat: ChatFormat, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = random_model("llama", tmp_path / "base", chat, tie_word_embeddings=False)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"])
    get_peft_model(load_model(base, "float32"), config).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(DataError, match=r"embed_tokens.*is of no linear layer.*share_base: false"):
        read_adapter(tmp_path / "adapter", load_model(base, "float32"))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_closed_students_memory_is_free_at_once(begin: Begin, chat: ChatFormat, tmp_path: Path, stage: int) -> None:
    student = begin(random_model("llama", tmp_path / "base", chat), FULL, zero_stage=stage)
    student.step(some_rows())
    model = weakref.ref(student.model)
    student.close()
    assert model() is None
