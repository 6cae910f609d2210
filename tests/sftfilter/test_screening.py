"""Screening: what lies below the adapters is computed once, and the students are those of the same settings without."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sftfilter.chat_format import ChatFormat
from sftfilter.errors import TrainingError
from sftfilter.llama_loss import quicken
from sftfilter.lower_states import LowerStates
from sftfilter.models import load_tokenizer
from sftfilter.training_settings import Lora
from sftfilter.warm_base import with_adapters
from tests.sftfilter.test_llama_loss import ROWS, loss_and_gradients, one_by_one, tiny
from tests.training_case import LORA, Case, furthest, rows, same_bits, tiny_llama, weights


def screened(first: int) -> Any:
    """A model with adapters from layer `first` on, none of them zero."""
    base = tiny("llama")
    quicken(base)
    model = with_adapters(base, Lora(rank=4, alpha=8, top_layers=base.config.num_hidden_layers - first))
    for name, p in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(p, std=0.2)
    return model.train()


@pytest.mark.parametrize("first", [1, 2])
def test_gradients_are_those_without_stored_states(first: int, tmp_path: Path) -> None:
    model = screened(first)
    expected_loss, expected = loss_and_gradients(one_by_one, model)
    assert {name.split(".layers.")[1][0] for name in expected} == {str(n) for n in range(first, 3)}
    lower = LowerStates(model.get_base_model(), first, tmp_path, 2**20)
    for computed in (len(ROWS) - 1, len(ROWS) - 1):  # two of the rows are one
        loss, gradients = loss_and_gradients(lower.loss_sum, model)
        assert lower.computed == computed
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        for name, gradient in expected.items():
            assert torch.allclose(gradients[name], gradient, rtol=1e-4, atol=2e-6 * float(gradient.abs().max())), name


def test_stored_states_are_the_same_bits_and_bounded(tmp_path: Path) -> None:
    model = screened(2)
    base = model.get_base_model()
    fresh = LowerStates(base, 2, None, 0)
    one_row = len(ROWS[0]) * base.config.hidden_size * 4
    small = LowerStates(base, 2, tmp_path, one_row + 10)
    alone = loss_and_gradients(fresh.loss_sum, model)
    for _ in range(2):
        loss, gradients = loss_and_gradients(small.loss_sum, model)
        assert loss == alone[0]
        assert all(torch.equal(gradients[name], gradient) for name, gradient in alone[1].items())
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in written) <= one_row + 10
    for layer in (2, 1):  # the next arms, or this one after a restart
        later = LowerStates(base, layer, tmp_path, one_row + 10)
        for row in ROWS:
            later.of(row)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == written, "one budget for all of them"
    other = LowerStates(base, 2, tmp_path, 0)  # another worker, or the next arm
    assert torch.equal(other.of(ROWS[0]), fresh.of(ROWS[0]))
    assert other.computed == 0


def test_a_disk_that_takes_no_states_costs_nothing_but_time(tmp_path: Path) -> None:
    model = screened(2)
    lower = LowerStates(model.get_base_model(), 2, tmp_path, 2**20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        made = lower.of(ROWS[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(lower.of(ROWS[0]), made)
    assert lower.computed == 2
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(TrainingError, match="top_layers is 3 and the model has 3 layers"):
        with_adapters(tiny("llama"), Lora(top_layers=3))


@pytest.fixture(scope="module")
def case(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    chat = ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief.")
    folder = tmp_path_factory.mktemp("screening")
    return Case(tiny_llama(folder / "model", chat), chat, folder)


@pytest.fixture(scope="module")
def ray_once() -> Iterator[None]:
    from cluster.local import local_ray
    from jobs.run import worker_env

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    with local_ray(worker_env(), cpus=2):
        yield
    del os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"]


@pytest.mark.ray
def test_screened_students_are_exact_and_marked(ray_once: None, case: Case) -> None:
    """Arms that share rows, in one warm group: the same bits as one by one without stored states, and as the oracle."""
    method = Lora(rank=4, alpha=8, top_layers=1)
    settings = LORA.model_copy(update={"method": method})
    arms = [case.run("some", settings, rows()[:9]), case.run("all", settings), case.run("full", LORA)]
    together = case.train(arms, "together", micro_batch_tokens=60)
    apart = case.train(arms[1:2], "apart", micro_batch_tokens=60, states_gib=0)
    assert same_bits(together["all"], apart["all"])
    assert furthest(weights(together["all"]), case.oracle(arms[1])[0]) < 1e-5
    assert furthest(weights(together["full"]), case.oracle(arms[2])[0]) < 1e-5
    assert [together[run.name].meta["screened"] for run in arms] == [True, True, False]
    assert not (case.storage / "together" / "training" / "states").exists()
