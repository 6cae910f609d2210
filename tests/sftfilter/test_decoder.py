"""The running batch: who joins, leaves or is sent back changes nobody's answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from sftfilter.adapters import AdapterBank, read_adapter
from sftfilter.decoder import Decoder
from sftfilter.errors import DataError
from sftfilter.generate_request import GenerateRequest

STOP, PAD = 2, 0
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


def tiny(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


def requests(count: int, seed: int = 0, **fields: float) -> list[GenerateRequest]:
    draw = random.Random(seed)
    return [
        GenerateRequest(
            [draw.randrange(3, 64) for _ in range(draw.randrange(1, 20))],
            draw.randrange(1, 24),
            draw.choice([0.0, 0.7, 1.0]),
            i,
            **fields,  # pyright: ignore[reportArgumentType]
        )
        for i in range(count)
    ]


def plain(model: torch.nn.Module, request: GenerateRequest) -> list[int]:
    """Greedy continuation by whole forward passes, nothing kept between tokens."""
    ids = list(request.prompt_ids)
    with torch.no_grad():
        while len(ids) - len(request.prompt_ids) < request.max_tokens:
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == STOP:
                break
            ids.append(token)
    return ids[len(request.prompt_ids) :]


def run(decoder: Decoder, wanted: Sequence[GenerateRequest], arrivals: random.Random | None = None) -> list[list[int]]:
    """New ids of each; with `arrivals` they come a few at a time between steps."""
    left, rows = list(wanted), []
    while left or decoder.busy:
        take = len(left) if arrivals is None else arrivals.randrange(0, 4)
        rows += [decoder.add(left.pop(0)) for _ in range(min(take, len(left)))]
        decoder.step()
    return [row.ids[len(row.request.prompt_ids) :] for row in rows]


def test_greedy_rows_are_those_of_whole_forward_passes() -> None:
    model = tiny()
    wanted = [GenerateRequest(r.prompt_ids, r.max_tokens) for r in requests(12)]
    found = run(Decoder(model, STOP, PAD, max_rows=5), wanted, random.Random(1))
    assert found == [plain(model, request) for request in wanted]


def test_answers_do_not_depend_on_neighbours_arrival_or_memory() -> None:
    model = tiny()
    wanted = requests(16)
    alone = [run(Decoder(model, STOP, PAD), [request])[0] for request in wanted]
    assert run(Decoder(model, STOP, PAD, max_rows=64), wanted) == alone
    assert run(Decoder(model, STOP, PAD, max_rows=7), wanted, random.Random(2)) == alone
    crowded = Decoder(model, STOP, PAD, max_rows=8, prompt_tokens=16)
    crowded.cache_tokens = 60  # rows are sent back to wait, and go on where they were
    assert run(crowded, wanted, random.Random(3)) == alone


def test_a_removed_row_ends_and_the_others_go_on() -> None:
    model = tiny()
    wanted = [GenerateRequest([5, 6, 7 + i], 20, 0.9, i) for i in range(4)]
    alone = [run(Decoder(model, STOP, PAD), [request])[0] for request in wanted]
    decoder = Decoder(model, STOP, PAD)
    rows = [decoder.add(request) for request in wanted]
    decoder.step()
    decoder.remove(rows[0])
    later = decoder.add(wanted[0])
    decoder.remove(later)  # it had not joined yet
    while decoder.busy:
        decoder.step()
    assert [row.ids[3:] for row in rows[1:]] == alone[1:]
    assert len(rows[0].ids) <= 4


def test_equal_prompts_are_read_once_and_answered_apart() -> None:
    model = tiny()
    passes: list[int] = []
    model.model.register_forward_pre_hook(lambda m, a, kw: passes.append(kw["input_ids"].numel()), with_kwargs=True)
    decoder = Decoder(model, STOP, PAD)
    rows = [decoder.add(GenerateRequest([5, 6, 7, 8, 9], 6, 1.0, seed)) for seed in range(8)]
    decoder.step()
    assert passes == [4, 8]
    while decoder.busy:
        decoder.step()
    assert len({tuple(row.ids) for row in rows}) > 1


def test_scores_are_the_models_own_whatever_the_temperature() -> None:
    model = tiny()
    decoder = Decoder(model, STOP, PAD)
    row = decoder.add(GenerateRequest([5, 6, 7], 4, 1.5, 3, logprobs=5))
    other = decoder.add(GenerateRequest([9], 4))
    tokens = []
    while decoder.busy:
        tokens += decoder.step()
    with torch.no_grad():
        expected = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    own = [token for token in tokens if token.row is row and token.id is not None]
    for at, token in enumerate(own, start=2):
        assert token.score is not None and token.id is not None
        assert token.score.logprob == pytest.approx(float(expected[at, token.id]), abs=1e-4)
        values, ids = expected[at].topk(5)
        assert [i for i, _ in token.score.top] == ids.tolist()
        assert [v for _, v in token.score.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert all(token.score is None for token in tokens if token.row is other)


def test_the_nucleus_holds_what_it_should() -> None:
    model = tiny()
    with torch.no_grad():
        probabilities = model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    size = int((ordered.cumsum(0) < 0.5).sum()) + 1
    allowed = set(order[:size].tolist())
    rows = [GenerateRequest([5, 6], 1, 1.0, seed, top_p=0.5) for seed in range(600)]
    drawn = [ids[0] if ids else STOP for ids in run(Decoder(model, STOP, PAD), rows)]
    assert set(drawn) == allowed
    share = drawn.count(int(order[0])) / 600
    assert share == pytest.approx(float(ordered[0] / ordered[:size].sum()), abs=0.07)


@pytest.mark.parametrize("family", ["mistral", "qwen3"])
def test_sliding_windows_are_kept(family: str) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = SHAPE | {"sliding_window": 6}
    if family == "mistral":
        model = MistralForCausalLM(MistralConfig(**shape)).eval()
    else:
        kinds = ["full_attention", "sliding_attention"]
        model = Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=8, use_sliding_window=True, layer_types=kinds)).eval()
    wanted = [GenerateRequest(list(range(5, 5 + n)), 12) for n in (2, 9, 17)]
    assert run(Decoder(model, STOP, PAD), wanted) == [plain(model, request) for request in wanted]


def test_a_model_with_other_state_is_refused_by_name() -> None:
    model = tiny()
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(DataError, match=r"linear_attention.*vllm"):
        Decoder(model, STOP, PAD)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, LlamaForCausalLM]]:
    """Three LoRA adapters of different rank and targets, each with the model they are merged into."""
    from peft import LoraConfig, get_peft_model

    made = {}
    for seed, (name, rank, targets) in enumerate(
        [("a", 4, "all-linear"), ("b", 2, ["q_proj", "down_proj"]), ("c", 8, ["gate_proj"])]
    ):
        model: Any = get_peft_model(tiny(), LoraConfig(r=rank, lora_alpha=8, target_modules=targets))
        torch.manual_seed(10 + seed)
        for key, value in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(value, std=0.3)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        made[name] = folder, model.merge_and_unload().eval()
    return made


def test_rows_of_several_adapters_share_passes_and_answer_as_merged(
    adapters: dict[str, tuple[Path, LlamaForCausalLM]],
) -> None:
    base = tiny()
    bank = AdapterBank(base)
    for name, (folder, _) in adapters.items():
        bank.add(name, read_adapter(folder, base))
    merged = {name: model for name, (_, model) in adapters.items()} | {None: tiny()}
    owners = [None, "a", "b", "a", "c", "b", None, "a"]
    wanted = [GenerateRequest(r.prompt_ids, r.max_tokens) for r in requests(len(owners), seed=5)]
    decoder = Decoder(base, STOP, PAD, max_rows=6, adapters=bank)
    rows = [decoder.add(request, owner) for request, owner in zip(wanted, owners, strict=True)]
    while decoder.busy:
        decoder.step()
    found = [row.ids[len(row.request.prompt_ids) :] for row in rows]
    assert found == [plain(merged[owner], request) for request, owner in zip(wanted, owners, strict=True)]
    assert len({tuple(plain(model, wanted[0])) for model in merged.values()}) > 1
    bank.drop("a")
    assert list(bank.weights) == ["c", "b"] or set(bank.weights) == {"b", "c"}


def test_what_is_no_plain_lora_is_refused(adapters: dict[str, tuple[Path, LlamaForCausalLM]], tmp_path: Path) -> None:
    folder, _ = adapters["a"]
    text = (folder / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(text.replace('"use_dora": false', '"use_dora": true'))
    (tmp_path / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes())
    with pytest.raises(DataError, match="use_dora"):
        read_adapter(tmp_path, tiny())
    (tmp_path / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="not a readable LoRA adapter"):
        read_adapter(tmp_path, tiny())
    torch.manual_seed(0)
    narrow: dict[str, Any] = {**SHAPE, "hidden_size": 16}
    other = LlamaForCausalLM(LlamaConfig(**narrow))
    with pytest.raises(DataError, match="another size"):
        read_adapter(folder, other)
