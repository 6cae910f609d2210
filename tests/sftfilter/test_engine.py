"""The engine against plain forward passes of the same model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sftfilter.engine import Engine, GenerateRequest
from sftfilter.errors import DataError
from sftfilter.shared_prefix import pack

STOP, PAD = 2, 0
SEQUENCES = [
    [5, 6, 7, 8, 9, 10, 11],
    [5, 6, 7, 8, 9, 12],
    [5, 6, 7, 8, 9, 10, 13, 14],
    [20, 21, 22],
    [5, 6, 30, 31, 32, 33, 34, 35, 36],
    [20, 21, 22],
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return Engine(str(folder), STOP, PAD, dtype="float32", max_batch=4)


def _plain(engine: Engine, ids: list[int], start: int) -> list[float]:
    with torch.no_grad():
        logprobs = engine._model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logprobs[p - 1, ids[p]]) for p in range(start, len(ids))]


@pytest.mark.parametrize("starts", [[1] * 6, [5, 5, 5, 2, 4, 1], [6, 5, 7, 3, 9, 2]])
def test_shared_beginnings_score_as_alone(engine: Engine, starts: list[int]) -> None:
    found = engine.token_logprobs(SEQUENCES, starts)
    for ids, start, values in zip(SEQUENCES, starts, found, strict=True):
        assert values == pytest.approx(_plain(engine, ids, start), abs=1e-4)


@pytest.mark.parametrize("family", ["rwkv", "bloom"])  # a state that is carried along; positions from a mask of its own
def test_models_that_no_mask_keeps_apart_share_no_beginnings(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=64, hidden_size=32, num_hidden_layers=2, n_head=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    other = Engine(str(tmp_path), STOP, PAD, dtype="float32")
    for ids, values in zip(SEQUENCES, other.token_logprobs(SEQUENCES, [1] * 6), strict=True):
        assert values == pytest.approx(_plain(other, ids, 1), abs=1e-4)


def test_weights_without_numbers_are_named_instead_of_answering(engine: Engine, tmp_path: Path) -> None:
    engine.model.save_pretrained(tmp_path)
    sick = Engine(str(tmp_path), STOP, PAD, dtype="float32")
    torch.nn.init.constant_(sick.model.model.norm.weight, float("nan"))
    with pytest.raises(DataError, match=f"{tmp_path}: its logits are no numbers"):
        sick.generate([GenerateRequest([5, 6], 4), GenerateRequest([7], 2, temperature=1.0)])


def test_packing_shares_only_where_it_pays() -> None:
    rows = pack(SEQUENCES)
    assert sorted(i for row in rows for i, _ in row.members) == list(range(6))
    assert sum(len(row.ids) for row in rows) < sum(map(len, SEQUENCES))
    assert {tuple(sorted(i for i, _ in row.members)) for row in rows} == {(0, 1, 2), (3, 5), (4,)}


def test_a_request_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    requests = [GenerateRequest(ids, 9, 0.9, seed) for seed, ids in enumerate(SEQUENCES)]
    together = engine.generate(requests)
    assert [engine.generate([request])[0] for request in requests] == together
    other = engine.generate([GenerateRequest(SEQUENCES[0], 9, 0.9, 77)])
    assert other[0] != together[0]


def test_own_limits_and_stop(engine: Engine) -> None:
    limits = [1, 5, 9]
    answers = engine.generate([GenerateRequest(SEQUENCES[0], n) for n in limits])
    for answer, limit in zip(answers, limits, strict=True):
        assert len(answer.ids) <= limit and STOP not in answer.ids
        assert answer.finish_reason == ("length" if len(answer.ids) == limit else "stop")


def test_sampling_follows_the_temperature(engine: Engine) -> None:
    """Gumbel noise gives the model's own distribution: first tokens of many seeds against its probabilities."""
    with torch.no_grad():
        expected = (engine._model(input_ids=torch.tensor([SEQUENCES[3]])).logits[0, -1] / 0.7).softmax(-1)
    draws = engine.generate([GenerateRequest(SEQUENCES[3], 1, 0.7, seed) for seed in range(3000)])
    counts = torch.zeros(64)
    for draw in draws:
        counts[draw.ids[0] if draw.ids else STOP] += 1
    assert float((counts / 3000 - expected).abs().sum()) / 2 < 0.06  # total variation
