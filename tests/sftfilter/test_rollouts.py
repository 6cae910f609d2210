"""How prompts are dealt out to the actors that answer them, and what a prompt that kills them comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sftfilter import rollouts
from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.attempts import MOST
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError, MachineError
from sftfilter.generation import Generation, Pool
from sftfilter.models import load_tokenizer
from sftfilter.rollouts import _blocks, generate_rollouts
from sftfilter.schema import PROMPTS
from tests.sftfilter.dying_answerer import DEADLY, DyingAnswerer
from tests.sftfilter.silent_answerer import SILENT, SilentAnswerer
from tests.training_case import tiny_llama


@pytest.mark.parametrize(
    ("rows", "actors", "batch", "blocks"),
    [(24, 1, 1, 6), (10_000, 1, 64, 40), (10_000, 8, 64, 40), (1_000, 8, 64, 16), (3, 8, 64, 3), (0, 1, 64, 1)],
)
def test_a_lost_actor_costs_a_batch_and_all_actors_have_work(rows: int, actors: int, batch: int, blocks: int) -> None:
    found = _blocks(rows, Pool(max_actors=actors, batch=batch))
    assert found == blocks
    assert rows / found <= batch * 4


def _prompts(store: Store, ids: list[str]) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        messages = [{"role": "user", "content": "hi"}]
        rows = [{"prompt_id": name, "messages": messages, "source": "made"} for name in ids]
        write_table(folder, "prompts", pa.Table.from_pylist(rows, PROMPTS))
        return {}

    return store.build("prompts", version=1, settings=ids, inputs={}, make=make)


def _answered(ids: list[str], store: Store, model: str, chat: ChatFormat, error_budget: float) -> Artifact:
    return generate_rollouts(
        "T",
        model,
        "a hash",
        _prompts(store, ids),
        store=store,
        chat=chat,
        base_hash="a base",
        generation=Generation(max_new_tokens=4),
        pool=Pool(batch=1, threads=1),
        error_budget=error_budget,
    )


@pytest.mark.ray
def test_a_prompt_that_kills_its_actor_ends_the_run(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.local import local_ray
    from jobs.run import worker_env

    chat, store = ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief."), Store(tmp_path / "runs")
    model = tiny_llama(tmp_path / "model", chat)
    monkeypatch.setattr(rollouts, "Answerer", DyingAnswerer)

    def answered(ids: list[str]) -> list[str]:
        return _answered(ids, store, model, chat, 0).table("rollouts")["prompt_id"].to_pylist()

    with local_ray(worker_env(), cpus=2):
        with pytest.raises(MachineError, match=rf"{MOST} worker processes died .* while answering \d+ prompts") as said:
            answered([*"abcdefgh", DEADLY])
        assert "lower `generation_pool.batch` or `generation_pool.max_actors`" in str(said.value)
        assert answered([*"abcdefgh"]) == [*"abcdefgh"]


@pytest.mark.ray
def test_the_spec_says_how_many_may_be_without_an_answer_of_those_that_are_reused_too(
    tiny_chat_model: Path, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, store = ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief."), Store(tmp_path / "runs")
    model = tiny_llama(tmp_path / "model", chat)
    monkeypatch.setattr(rollouts, "Answerer", SilentAnswerer)
    ids = [*"abcdef", *(f"{SILENT}-{n}" for n in range(4))]
    made = _answered(ids, store, model, chat, 0.5)
    assert not made.reused and made.meta["used"] == 6, "40 % are allowed, where 50 % are"
    refused = (
        r"T answered nothing to 4 of 10 prompts, more than error_budget 0\.01 allows \(named in (.*parquet)\).* raise"
    )
    with pytest.raises(DataError, match=refused) as said:
        _answered(ids, store, model, chat, 0.01)
    assert str(made.path) in str(said.value)
    assert made.table("quarantine")["raw"].to_pylist() == [f"{SILENT}-{n}" for n in range(4)]
    assert _answered(ids, store, model, chat, 0.4).reused
