"""One worker's student in this process: models that cannot be packed, recomputation, gradients and their norm."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from sftfilter.chat_format import ChatFormat
from sftfilter.extension_lock import await_builds, extensions_dir
from sftfilter.models import load_model, load_tokenizer
from sftfilter.packed import Row, keeps_rows_apart
from sftfilter.training_settings import Execution, TrainingSettings
from tests.training_case import FULL

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
HEADS = {"head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
QWEN = {
    **HEADS,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}

Make = Callable[..., str]
Begin = Callable[..., Any]


@pytest.fixture(scope="module")
def chat(tiny_chat_model: Path) -> ChatFormat:
    return ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief.")


@pytest.fixture(scope="module")
def make(chat: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Writes a random model of a family."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def write(family: str, **changes: Any) -> str:
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, vocab_size=len(chat.tokenizer), **SIZES | changes)
        folder = tmp_path_factory.mktemp(family)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        chat.tokenizer.save_pretrained(folder)
        return str(folder)

    return write


@pytest.fixture(scope="module")
def begin(chat: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begin]:
    """Starts students of a group of one worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(extensions_dir()))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("LOCAL_RANK", "0")
        await_builds(extensions_dir())
        meeting = tmp_path_factory.mktemp("group") / "store"
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)

        def start(folder: str, settings: TrainingSettings, steps: int = 10, **execution: Any) -> Any:
            from sftfilter.student import Student

            return Student(folder, settings, Execution(workers=1, **execution), 1, steps, chat)

        yield start
        dist.destroy_process_group()


def some_rows(count: int = 4) -> list[Row]:
    """Of unequal lengths, the second half of each supervised."""
    generator = torch.Generator().manual_seed(1)
    sizes = [10 + 7 * (k % 3) for k in range(count)]
    ids = [torch.randint(10, 500, (size,), generator=generator).tolist() for size in sizes]
    return [Row(row, list(range(len(row) // 2, len(row)))) for row in ids]


def one_by_one(model: Any, rows: list[Row]) -> torch.Tensor:
    """Mean loss of a supervised token, without any packing."""
    total, count = torch.zeros(()), 0
    for row in rows:
        ids, at = torch.tensor([row.ids]), torch.tensor(row.supervised)
        total = total + cross_entropy(model(input_ids=ids).logits[0, at - 1].float(), ids[0, at], reduction="sum")
        count += len(at)
    return total / count


FAMILIES = [
    ("gemma2", {"head_dim": 8}, True),
    ("gpt_neox", {}, True),
    ("qwen3", {"head_dim": 8}, True),
    ("mixtral", {"num_local_experts": 4}, True),
    ("qwen3_5_text", QWEN, False),
    ("mamba", {}, False),
    ("bloom", {"n_layer": 2, "n_head": 4}, False),  # its attention knows no position ids
]


@pytest.mark.parametrize(("family", "changes", "apart"), FAMILIES, ids=[family for family, *_ in FAMILIES])
def test_models_in_which_packed_rows_see_each_other_are_told(
    make: Make, family: str, changes: dict[str, Any], apart: bool
) -> None:
    folder = make(family, **changes)
    for dtype in ("float32", "bfloat16"):
        model = load_model(folder, dtype, attn_implementation="eager" if family != "mamba" else None).eval()
        assert keeps_rows_apart(model, model.config.vocab_size, CPU) == apart, dtype


@pytest.mark.parametrize(("family", "changes", "apart"), [FAMILIES[0], FAMILIES[4]], ids=["gemma2", "qwen3_5_text"])
def test_such_models_are_trained_one_row_at_a_time(
    make: Make, begin: Begin, family: str, changes: dict[str, Any], apart: bool
) -> None:
    folder = make(family, **changes)
    student = begin(folder, FULL, zero_stage=0)
    assert student.packs == apart
    passes: list[int] = []
    student.model.register_forward_pre_hook(lambda *_: passes.append(1))
    rows = some_rows()
    loss, _ = student.step(rows)
    student.close()
    assert len(passes) == (1 if apart else len(rows))
    with torch.no_grad():
        expected = one_by_one(load_model(folder, "float32", attn_implementation="eager"), rows)
    assert loss == pytest.approx(float(expected), rel=1e-5)
