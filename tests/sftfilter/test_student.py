"""One worker's student in this process: models that cannot be packed, recomputation, gradients and their norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError, DivergedError, TrainingError
from sftfilter.models import load_model, load_tokenizer
from sftfilter.packed import Row, keeps_rows_apart
from sftfilter.train_failures import check_loss, worst_loss
from sftfilter.training_settings import TrainingSettings
from tests.sftfilter.student_case import CPU, QWEN, Begin, one_worker, random_model, some_rows
from tests.training_case import FULL, LORA, Case, furthest, rows, tiny_llama, turn

Make = Callable[..., str]


@pytest.fixture(scope="module")
def chat(tiny_chat_model: Path) -> ChatFormat:
    return ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief.")


@pytest.fixture(scope="module")
def make(chat: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Writes a random model of a family."""
    return lambda family, **changes: random_model(family, tmp_path_factory.mktemp(family), chat, **changes)


@pytest.fixture(scope="module")
def begin(chat: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begin]:
    """Starts students of a group of one worker."""
    with one_worker(chat, tmp_path_factory.mktemp("group") / "store") as start:
        yield start


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


def saved_bytes(student: Any, rows: list[Row]) -> int:
    """What a forward pass keeps for the way back."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.data_ptr() for p in student.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        student.loss_sum(student.engine, rows, CPU)
    return sum(size for where, size in kept.items() if where not in weights)


@pytest.mark.parametrize("settings", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("gemma2", {"head_dim": 8}),
        ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.5, "attention_dropout": 0.5}),
    ],
    ids=["llama", "gemma2", "opt"],
)
def test_checkpointing_recomputes_and_changes_nothing(
    make: Make, begin: Begin, family: str, changes: dict[str, Any], settings: TrainingSettings
) -> None:
    folder, rows = make(family, **changes, num_hidden_layers=4), some_rows()
    made = {}
    for recomputed in (False, True):
        student = begin(folder, settings, zero_stage=0, gradient_checkpointing=recomputed)
        kept = saved_bytes(student, rows)
        losses = [student.step(rows)[0] for _ in range(3)]
        made[recomputed] = kept, losses
        student.close()
    assert made[True][0] < 0.5 * made[False][0]
    assert made[True][1] == pytest.approx(made[False][1], rel=1e-5)


def test_the_gradients_norm_is_told_at_every_stage(make: Make, begin: Begin) -> None:
    folder, batch = make("llama"), some_rows()
    model = load_model(folder, "float32", attn_implementation="eager")
    one_by_one(model, batch).backward()
    expected = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    for stage in (0, 1, 2):
        student = begin(folder, FULL, zero_stage=stage, micro_batch_tokens=20)
        student.step(batch)
        assert student.gradient_norm == pytest.approx(expected, rel=1e-5)
        if stage == 0:  # gradients that are lost are told in the step that has them, not by the loss of the next
            next(iter(student.model.parameters())).register_hook(lambda grad: grad * float("nan"))
            loss, _ = student.step(batch)
            with pytest.raises(DivergedError, match=r"arm a: the gradient's norm is nan at step 2 \(rows r0\)"):
                check_loss("a", 2, loss, student.gradient_norm, ["r0"], worst_loss([loss], 600))
        student.close()


def test_a_micro_batch_that_does_not_fit_is_named_with_what_to_turn(make: Make, begin: Begin) -> None:
    from sftfilter.train_loop import _step

    student = begin(make("llama"), FULL, zero_stage=2, micro_batch_tokens=30)
    student.loss_sum = lambda *_: torch.empty(2**50)
    batch = some_rows()
    message = (
        r"arm a, step 3: out of memory in a micro-batch of [12] rows and \d\d tokens \(r\d.*\): lower "
        r"execution\.micro_batch_tokens \(now 30\) or set execution\.gradient_checkpointing: true"
    )
    with pytest.raises(TrainingError, match=message):
        _step(student, batch, [f"r{i}" for i in range(len(batch))], "a", 3)
    student.close()


def test_a_gradient_that_is_gone_is_told_unless_nothing_is_left_to_learn() -> None:
    with pytest.raises(DivergedError, match=r"the gradient's norm is 0 and the loss 6\.4 nats a token.* at step 2"):
        check_loss("a", 2, 6.4, 0.0, ["r0"], 20.0)
    check_loss("a", 2, 0.0, 0.0, ["r0"], 20.0)
    check_loss("a", 2, 6.4, 1e-9, ["r0"], 20.0)


def test_a_loss_that_has_been_better_and_is_worse_than_guessing_is_lost() -> None:
    vocabulary = 49152  # guessing: 10.8 nats
    for before, now, lost in (
        ([], 30.0, False),  # a model of random weights
        ([], 33.0, True),
        ([12.0, 11.0], 30.0, False),
        ([2.0, 1.0], 10.0, False),  # an odd batch
        ([2.0, 1.0], 11.0, True),
        ([5.0, 4.0], 11.0, False),
        ([5.0, 4.0], 12.5, True),
    ):
        assert (now > worst_loss(before, vocabulary)) == lost, (before, now)


@pytest.fixture(scope="module")
def case(chat: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("masks")
    return Case(tiny_llama(folder / "model", chat), chat, folder)


def spelled_out(chat: ChatFormat, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """A row's tokens and those that are learned, from its text written by hand: ChatML, answers and their stop tokens."""
    text, learned = "", []
    for said in [turn("system", "Be brief."), *row["messages"], turn("assistant", row["completion"])]:
        text += f"<|im_start|>{said['role']}\n"
        begins = len(text)
        text += f"{said['content']}<|im_end|>"
        if said["role"] == "assistant":
            learned.append(range(begins, len(text)))
        text += "\n"
    encoded = chat.tokenizer(text.rstrip("\n"), add_special_tokens=False, return_offsets_mapping=True)
    offsets: Any = encoded["offset_mapping"]
    return encoded["input_ids"], [i for i, (at, _) in enumerate(offsets) if any(at in span for span in learned)]


def test_a_planted_wrong_mask_is_seen_in_what_is_trained(case: Case, begin: Begin) -> None:
    """The trainer's own rows against masks written by hand; with losses on the prompt, one token late, without stops or
    on the last answer alone it trains something else."""
    run = case.run("full", FULL)
    tokens = case.rows_of(run)
    by_hand = {row["row_id"]: spelled_out(case.chat, row) for row in rows()}
    assert {name: (row.ids, row.supervised) for name, row in tokens.items()} == by_hand
    expected = case.oracle(run, lambda row: next(mask for ids, mask in by_hand.values() if ids == row.ids))[0]
    stop = case.chat.stop_id

    def trained(masked: Callable[[Row], list[int]]) -> dict[str, torch.Tensor]:
        student = begin(case.model, FULL, len(run.plan.steps), zero_stage=1)
        for slots in run.plan.steps:
            student.step([Row(tokens[s].ids, masked(tokens[s])) for s in slots if s is not None])
        weights = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
        student.close()
        return weights

    def last_turn(row: Row) -> list[int]:
        stops = [p for p in row.supervised if row.ids[p] == stop][:-1]
        return [p for p in row.supervised if not stops or p > stops[-1]]

    assert furthest(trained(lambda row: row.supervised), expected) < 1e-5
    for wrong in (
        lambda row: list(range(1, len(row))),
        lambda row: [p - 1 for p in row.supervised],
        lambda row: [p for p in row.supervised if row.ids[p] != stop],
        last_turn,
    ):
        assert furthest(trained(wrong), expected) > 1e-4


@pytest.mark.parametrize("stage", [2, 3])
def test_bfloat16_gradients_are_as_exact_in_many_micro_batches_as_in_one(make: Make, begin: Begin, stage: int) -> None:
    """Sixty-four micro-batches, or one, against float32; added in bfloat16 the many err more."""
    from deepspeed.utils import safe_get_full_grad

    folder, batch = make("llama"), some_rows(64)
    model = load_model(folder, "bfloat16", attn_implementation="eager").float()
    one_by_one(model, batch).backward()
    exact = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    bf16 = FULL.model_copy(update={"precision": "bf16"})

    def error(tokens: int, **options: Any) -> float:
        student = begin(folder, bf16, zero_stage=stage, micro_batch_tokens=tokens, **options)
        if student.model.dtype != torch.bfloat16:
            pytest.skip("this CPU has no bfloat16 units, so students are trained in float32")
        found: dict[str, torch.Tensor] = {}
        step = student.engine.step

        def keep() -> None:
            if student.engine.is_gradient_accumulation_boundary():
                for name, p in student.model.named_parameters():
                    found[name] = safe_get_full_grad(p).detach().float().clone()  # pyright: ignore
            step()

        student.engine.step = keep
        student.step(batch)
        student.close()
        apart = sum(float((found[name] - g).square().sum()) for name, g in exact.items())
        return (apart / sum(float(g.square().sum()) for g in exact.values())) ** 0.5

    assert error(1) < 1.1 * error(10**6)  # in bfloat16: 1.33 times


def test_a_bfloat16_student_of_many_micro_batches_goes_on_bit_for_bit(make: Make, begin: Begin, tmp_path: Path) -> None:
    folder, batch = make("llama"), some_rows()
    settings = LORA.model_copy(update={"precision": "bf16"})

    def go_on(student: Any, steps: int) -> dict[str, torch.Tensor]:
        for _ in range(steps):
            student.step(batch)
        return {name: p.detach().clone() for name, p in student.model.named_parameters() if p.requires_grad}

    student = begin(folder, settings, zero_stage=2, micro_batch_tokens=20)
    go_on(student, 2)
    student.engine.save_checkpoint(str(tmp_path), tag="shards", save_latest=False)
    whole = go_on(student, 2)
    student.close()
    student = begin(folder, settings, zero_stage=2, micro_batch_tokens=20)
    student.engine.load_checkpoint(str(tmp_path), tag="shards")
    resumed = go_on(student, 2)
    student.close()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_all_rows_that_cannot_be_trained_on_are_named_at_once(case: Case) -> None:
    odd = [
        {"row_id": "long", "messages": [turn("user", "word " * 400)], "completion": "x"},
        {"row_id": "cut", "messages": [turn("user", "Hello")], "completion": "One.<|im_end|>Two."},
    ]
    with pytest.raises(DataError) as refused:
        case.rows_of(case.run("odd", FULL.model_copy(update={"max_length": 256}), [*odd, *rows()]))
    first, second = str(refused.value).splitlines()
    assert first.startswith("row long has ") and first.endswith("training.max_length is 256: raise it or drop the row")
    assert second.startswith("row cut: the completion contains the stop token '<|im_end|>'")
