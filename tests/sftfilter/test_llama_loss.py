"""The quick loss of Llama-like models is transformers' own: same sums, same gradients, and no other model is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from sftfilter import fused_ops
from sftfilter.fused_ops import SHORT
from sftfilter.llama_loss import is_known, quicken
from sftfilter.packed import Row, packed_loss_sum, tree_loss_sum
from sftfilter.prefix_tree import grow

CPU = torch.device("cpu")
SHARED = [5, 9, 2, 7, 1, 1, 8]
ROWS = [
    Row([*SHARED, 11, 12, 13, 14, 15], [9, 10, 11]),
    Row([*SHARED, 11, 12, 30, 31], [9, 10]),  # the same question, another answer
    Row([*SHARED, 11, 12, 30, 31], [9, 10]),  # the same row again
    Row([3, *range(20, 60)], [4, 5, 6, 7, 30, 39, 40]),  # two turns, a beginning of its own
    Row([*SHARED, 40, 41, 42, *range(50, 62)], list(range(10, 22))),
    Row([3, 3], [1]),
]


def tiny(family: str, **changes: Any) -> Any:
    """A random causal LM of a family, 3 layers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 90,
        "hidden_size": 24,
        "intermediate_size": 50,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
    }
    config = AutoConfig.for_model(family, **sizes | changes)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)


def adapted(model: Any) -> Any:
    """With adapters whose second half is not zero, so that all of it has a gradient."""
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"))
    for name, p in wrapped.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(p, std=0.2)
    return wrapped


def loss_and_gradients(way: Any, model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = way(model, ROWS, CPU)
    (loss / 7).backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def one_by_one(model: Any, rows: list[Row], device: torch.device) -> torch.Tensor:
    """The oracle: no packing at all."""
    total = torch.zeros(())
    for row in rows:
        ids, at = torch.tensor([row.ids]), torch.tensor(row.supervised)
        total = total + cross_entropy(model(input_ids=ids).logits[0, at - 1].float(), ids[0, at], reduction="sum")
    return total


@pytest.fixture(params=[SHORT, 20, 0], ids=["attention-kept", "attention-both-ways", "attention-of-torch"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention of rows up to so many tokens is computed with its weights kept, of longer ones by torch's kernel."""
    monkeypatch.setattr(fused_ops, "SHORT", request.param)


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("mistral", {"sliding_window": None, "head_dim": 6}),
    ],
)
def test_losses_and_gradients_are_those_of_transformers(family: str, changes: dict[str, Any], lora: bool) -> None:
    model = tiny(family, **changes)
    assert is_known(model)
    quicken(model)
    model = (adapted(model) if lora else model).train()
    expected_loss, expected = loss_and_gradients(one_by_one, model)
    for way in (tree_loss_sum, packed_loss_sum):
        loss, gradients = loss_and_gradients(way, model)
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        assert set(gradients) == set(expected)
        for name, gradient in expected.items():
            assert torch.allclose(gradients[name], gradient, rtol=1e-4, atol=2e-6 * float(gradient.abs().max())), name


def test_checkpointed_layers_give_the_same_gradients() -> None:
    model = adapted(tiny("llama"))
    quicken(model.get_base_model())
    model.train()
    loss, plain = loss_and_gradients(tree_loss_sum, model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again, gradients = loss_and_gradients(tree_loss_sum, model)
    assert again == loss
    assert all(torch.equal(gradients[name], gradient) for name, gradient in plain.items())


@pytest.mark.usefixtures("attention")
def test_in_bfloat16_it_errs_no_more_than_transformers() -> None:
    exact_loss, exact = loss_and_gradients(one_by_one, adapted(tiny("llama")))
    model = adapted(tiny("llama")).bfloat16()
    quicken(model.get_base_model())

    def error(way: Any) -> tuple[float, float]:
        loss, gradients = loss_and_gradients(way, model)
        apart = sum(float((gradients[n].float() - g).square().sum()) for n, g in exact.items())
        return abs(loss - exact_loss) / exact_loss, (
            apart / sum(float(g.square().sum()) for g in exact.values())
        ) ** 0.5

    ours, theirs = error(tree_loss_sum), error(one_by_one)
    assert ours[0] < max(2 * theirs[0], 0.01)
    assert ours[1] < max(1.5 * theirs[1], 0.02)


def test_what_rows_share_is_there_once() -> None:
    tree = grow(ROWS, CPU)
    distinct = {tuple(row.ids[: n + 1]) for row in ROWS for n in range(len(row))}
    assert len(tree.ids) == len(distinct)
    assert len(tree.targets) == sum(len(row.supervised) for row in ROWS)
    assert all(ROWS[row].ids[position] == int(tree.ids[n]) for n, (row, position) in enumerate(tree.origin))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 4}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"attention_dropout": 0.1}),
        ("gemma2", {"head_dim": 4}),
        ("qwen3", {"head_dim": 4}),
        ("olmo2", {}),
    ],
)
def test_other_models_go_through_transformers(family: str, changes: dict[str, Any]) -> None:
    model = tiny(family, **changes)
    assert not is_known(model)
    model.eval()  # no dropout
    loss = packed_loss_sum(model, ROWS[:4], CPU)
    assert loss.item() == pytest.approx(one_by_one(model, ROWS[:4], CPU).item(), rel=1e-5)
