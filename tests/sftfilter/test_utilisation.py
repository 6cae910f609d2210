"""FLOPs of a step, counted by hand and by torch's own counter."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from sftfilter.training_settings import Lora
from sftfilter.utilisation import StepFlops, product_rate, step_flops
from sftfilter.warm_base import with_adapters


def counted(model: torch.nn.Module, tokens: int) -> float:
    """What torch counts on the way forward and back, every token supervised, attention's own products left out."""
    ids = torch.arange(tokens).reshape(1, -1)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    linear = {"mm", "addmm", "_grouped_mm"}
    return sum(n for op, n in counter.get_flop_counts()["Global"].items() if str(op).split(".")[-1] in linear)


@pytest.mark.model
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_step_takes_what_torch_counts(tiny_model: str, method: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    inner = sum(
        m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "head" not in n
    )
    head = model.get_parameter("model.embed_tokens.weight").numel()  # tied to the output layer
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    found = step_flops(model)
    tokens = 24
    if method == "full":
        assert found == StepFlops(6.0 * inner, 6.0 * head)
    # The lowest layer needs no gradient of its input where nothing below it is trained.
    assert found.of(tokens, tokens) == pytest.approx(counted(model, tokens), rel=0.03)


@pytest.mark.model
def test_a_screening_step_takes_nothing_where_nothing_is_trained(tiny_model: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = with_adapters(model, Lora(rank=4, top_layers=1))
    tokens = 24
    assert step_flops(model).of(tokens, tokens) == pytest.approx(counted(model, tokens), rel=0.05)
    layers = model.get_base_model().model.layers
    lower = sum(m.weight.numel() for m in layers[:-1].modules() if isinstance(m, torch.nn.Linear))
    assert step_flops(model).token - step_flops(model, kept_below=True).token == 2.0 * lower


def test_a_rate_is_one_that_a_machine_can_have(tiny_model: str) -> None:
    rate = product_rate(AutoModelForCausalLM.from_pretrained(tiny_model), torch.device("cpu"))
    assert 1e8 < rate < 1e14
