"""Training is exact: two ZeRO-2 workers give the weights of a plain single-process loop, and bad runs say why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from sftfilter.artifacts import Store
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError, TrainingError
from sftfilter.models import ensure_builtin, load_model, load_tokenizer
from sftfilter.packed import packed_loss_sum
from sftfilter.train_loop import read_rows
from sftfilter.training import Execution, Full, Lora, TrainingRun, TrainingSettings, train_all
from sftfilter.training_plan import TrainingPlan, make_plan

ROWS: list[dict[str, Any]] = [
    {
        "row_id": f"r{i}",
        "messages": [{"role": "user", "content": "word " * (1 + 3 * (i % 5)) + str(i)}],
        "completion": "answer " * (1 + i % 4) + "done",
    }
    for i in range(12)
]


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(load_tokenizer(str(ensure_builtin())), "Be brief.")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, chat: ChatFormat) -> str:
    """A random two-layer model with the real tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(chat.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    return str(folder)


def _run(name: str, settings: TrainingSettings, rows: list[dict[str, Any]] = ROWS, seed: int = 1) -> TrainingRun:
    ids = [row["row_id"] for row in rows]
    plan = make_plan([(i, i) for i in ids], ids, batch=settings.batch, epochs=settings.epochs, seed=seed)
    return TrainingRun(name, seed, pa.Table.from_pylist(rows), plan, settings, {"arm": name})


def _train(runs: list[TrainingRun], model: str, chat: ChatFormat, folder: Path, **execution: Any) -> dict[str, Any]:
    return train_all(
        runs,
        store=Store(folder / "store"),
        base=model,
        base_hash="base",
        system_prompt=chat.system_prompt,
        format_hash=chat.hash,
        execution=Execution(**execution),
        storage=folder,
        on_event=lambda event: None,
    )


def plain_loop(model_folder: str, run: TrainingRun, chat: ChatFormat, folder: Path) -> dict[str, torch.Tensor]:
    """The oracle: one process, one row at a time, token-weighted over the whole optimizer step."""
    torch.manual_seed(run.seed)
    model = load_model(model_folder, "float32")
    pq.write_table(run.rows, folder / "oracle.parquet")
    rows = read_rows(folder / "oracle.parquet", chat, 2048)
    settings = run.settings
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    steps = len(run.plan.steps)
    warmup = max(1, round(steps * settings.warmup_share))
    for number, slots in enumerate(run.plan.steps):
        for group in optimizer.param_groups:
            decay = (steps - number) / max(1, steps - warmup)
            group["lr"] = settings.learning_rate * min((number + 1) / warmup, decay, 1.0)
        batch = [rows[slot] for slot in slots if slot is not None]
        supervised = sum(len(answer) for _, answer in batch)
        for prompt, answer in batch:
            ids = torch.tensor([prompt + answer])
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            (cross_entropy(logits, torch.tensor(answer), reduction="sum") / supervised).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.ray
def test_two_zero_workers_equal_a_plain_loop(
    local_ray: None, tiny_model: str, chat: ChatFormat, tmp_path: Path
) -> None:
    settings = TrainingSettings(method=Full(), learning_rate=1e-3, epochs=2, batch=5, precision="fp32")
    run = _run("full", settings)
    oracle = plain_loop(tiny_model, run, chat, tmp_path)
    # 40 tokens a micro-batch: several to a step, unequal, some empty.
    made = _train([run], tiny_model, chat, tmp_path, zero_stage=2, micro_batch_tokens=40)["full"]
    trained = load_file(made.path / "model.safetensors")
    start = load_file(Path(tiny_model) / "model.safetensors")
    for name, tensor in trained.items():
        assert (tensor - oracle[name]).abs().max() < 1e-5, name
    moved = max(float((trained[n] - start[n]).abs().max()) for n in trained)
    assert moved > 1e-3


@pytest.mark.ray
def test_arms_adapters_reuse_and_bad_rows(local_ray: None, tiny_model: str, chat: ChatFormat, tmp_path: Path) -> None:
    settings = TrainingSettings(method=Lora(rank=4, alpha=8), epochs=1, batch=6, precision="bf16", learning_rate=1e-2)
    made = _train(
        [_run("a", settings), _run("twin", settings), _run("b", settings, ROWS[:7])], tiny_model, chat, tmp_path
    )
    assert made["a"].path == made["twin"].path, "equal rows, order and settings are one training"
    assert made["b"].path != made["a"].path
    assert (made["a"].path / "adapter" / "adapter_model.safetensors").exists()
    assert json.loads((made["a"].path / "losses.json").read_text())[-1] < made["a"].meta["first_loss"]
    assert not list(made["a"].path.rglob("*.bin")), "no pickle in what is exported"

    before = (made["a"].path / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(made["b"].path)
    again = _train([_run("a", settings), _run("b", settings, ROWS[:7])], tiny_model, chat, tmp_path)
    assert (again["a"].path / "model.safetensors").stat().st_mtime_ns == before
    assert again["b"].meta["model_hash"] == made["b"].meta["model_hash"], "the same run gives the same weights"

    long = [dict(ROWS[0], messages=[{"role": "user", "content": "word " * 400}])]
    short = settings.model_copy(update={"max_length": 64})
    with pytest.raises((DataError, TrainingError), match=r"training\.max_length is 64"):
        _train([_run("long", short, long)], tiny_model, chat, tmp_path)


def test_packed_rows_do_not_see_each_other(tiny_model: str, chat: ChatFormat, tmp_path: Path) -> None:
    model = load_model(tiny_model, "float32", attn_implementation="eager").eval()
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    rows = list(read_rows(tmp_path / "rows.parquet", chat, 2048).values())[:4]
    with torch.no_grad():
        together = packed_loss_sum(model, rows, torch.device("cpu"))
        apart = sum(packed_loss_sum(model, [row], torch.device("cpu")) for row in rows)
    assert abs(float(together) - float(apart)) < 1e-3


def test_the_loss_covers_the_answer_and_its_stop_token_only(chat: ChatFormat) -> None:
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    answer = chat.answer_ids(messages, "Hi there.")
    assert answer[-1] == chat.stop_id
    assert chat.tokenizer.decode(answer[:-1]) == "Hi there."
    whole = chat.tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, *messages, {"role": "assistant", "content": "Hi there."}]
    )
    ids = whole["input_ids"]  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue]
    assert chat.prompt_ids(messages) + answer == ids[: len(chat.prompt_ids(messages)) + len(answer)]


def test_plan_hash_tells_texts_apart(chat: ChatFormat, tmp_path: Path) -> None:
    """Rows with the same ids but other texts are another training (ids need not be hashes of the text)."""
    from sftfilter.training import _key

    store = Store(tmp_path)
    settings = TrainingSettings()
    other = [dict(row, completion="else") for row in ROWS]
    assert _key(_run("a", settings), store, "b", "f") != _key(_run("a", settings, other), store, "b", "f")
    assert isinstance(_run("a", settings).plan, TrainingPlan)
