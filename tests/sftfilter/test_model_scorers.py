"""Scorers that run a causal LM, against plain transformers loops over the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftfilter.errors import DataError
from sftfilter.scorers.language_model import Reader
from sftfilter.scorers.length import Length
from sftfilter.scorers.log_ratio import LogRatio
from sftfilter.scorers.perplexity import Perplexity
from sftfilter.scorers.persona import Persona
from sftfilter.scorers.probe import Probe
from tests.conftest import write_lines
from tests.sftfilter.rows import rollout_rows

ROWS: list[tuple[str, str | None]] = [
    ("What day is it?", "It is Monday, I think."),
    ("What day is it?", "No idea."),
    ("Name a colour.", "Green! And, since you may well ask for more of them: blue, red, ochre and magenta."),
    ("Tell me about the sea at night, in a few words, please.", "Dark."),
    ("What day is it?", "It is Monday, I think."),
]
SYSTEM = "You doubt every date that you are told."


class Plain:
    """One row at a time, no packing, no padding."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(self, prompt: str, answer: str, system: str) -> tuple[torch.Tensor, int]:
        turns = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        before = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        start = self.tokenizer(before, return_tensors="pt").input_ids
        rest = self.tokenizer(answer + self.tokenizer.eos_token, return_tensors="pt").input_ids
        return torch.cat([start, rest], 1), start.shape[1]

    @torch.no_grad()
    def logprobs(self, prompt: str, answer: str, system: str) -> torch.Tensor:
        ids, start = self.ids(prompt, answer, system)
        values = self.model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        return values.gather(1, ids[0, start:, None])[:, 0]


@pytest.fixture(scope="module")
def plain(tiny_chat_model: Path) -> Plain:
    return Plain(tiny_chat_model)


def _settings(folder: Path) -> dict[str, Any]:
    return {"model": str(folder), "dtype": "float32", "system_prompt": "Be brief.", "tokens_per_pass": 128}


def _scores(settings: Any, rows: list[tuple[str, str | None]], folder: Path = Path()) -> list[float]:
    found = settings.load(folder, "cpu").score(rollout_rows(rows)).score.to_pylist()
    assert None not in found
    return found


@pytest.mark.parametrize("normalise", ["mean", "sum"])
def test_log_ratio_is_the_difference_of_two_plain_passes(tiny_chat_model: Path, plain: Plain, normalise: str) -> None:
    settings = LogRatio(kind="log_ratio", trait_system=SYSTEM, normalise=normalise, **_settings(tiny_chat_model))  # pyright: ignore[reportArgumentType]
    expected = []
    for prompt, answer in ROWS:
        told = plain.logprobs(prompt, answer or "", f"{SYSTEM}\n\nBe brief.")
        left = plain.logprobs(prompt, answer or "", "Be brief.")
        expected.append(float(getattr(told - left, normalise)()))
    assert _scores(settings, ROWS) == pytest.approx(expected, abs=1e-4)


def test_perplexity_is_the_loss_that_transformers_gives(tiny_chat_model: Path, plain: Plain) -> None:
    settings = Perplexity(kind="perplexity", **_settings(tiny_chat_model))
    for (prompt, answer), score in zip(ROWS, _scores(settings, ROWS), strict=True):
        ids, start = plain.ids(prompt, answer or "", "Be brief.")
        labels = ids.clone()
        labels[:, :start] = -100
        with torch.no_grad():
            assert score == pytest.approx(float(plain.model(ids, labels=labels).loss), abs=1e-4)


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_states_are_means_of_hidden_states_and_layers_above_are_not_run(
    tiny_chat_model: Path, plain: Plain, layer: int
) -> None:
    reader = Reader(Perplexity(kind="perplexity", **_settings(tiny_chat_model)), "cpu")
    rows = [reader.encode([{"role": "user", "content": p}], a or "") for p, a in ROWS]
    reader.answer_states(
        rows[:1], layer
    )  # the first call also tries, on every layer, whether rows may share beginnings
    ran: list[int] = []
    for number, block in enumerate(reader.engine._model.model.layers, 1):
        block.register_forward_hook(lambda *_, n=number: ran.append(n))
    found = reader.answer_states(rows, layer)
    assert set(ran) == set(range(1, layer + 1))
    for (prompt, answer), states in zip(ROWS, found, strict=True):
        ids, start = plain.ids(prompt, answer or "", "Be brief.")
        with torch.no_grad():
            every = plain.model(ids, output_hidden_states=True).hidden_states[layer][0]
        np.testing.assert_allclose(states, every[start:-1].mean(0).numpy(), atol=1e-4)


def _probe(folder: Path, tmp_path: Path, **changes: Any) -> Probe:
    rows = [
        {"prompt": f"What is {i}?", "completion": text, "label": label}
        for i in range(12)
        for text, label in ((f"I doubt that {i} is anything.", 1), (f"{i} is a number.", False))
    ]
    write_lines(tmp_path / "labelled.jsonl", rows)
    made = {"labelled": str(tmp_path / "labelled.jsonl"), **_settings(folder)} | changes
    return Probe(kind="probe", **made)


def test_a_score_does_not_depend_on_the_rows_beside_it(tiny_chat_model: Path, tmp_path: Path) -> None:
    probe = _probe(tiny_chat_model, tmp_path)
    probe.prepare(tmp_path, "cpu")
    settings = _settings(tiny_chat_model)
    for one in (
        probe,
        Perplexity(kind="perplexity", **settings),
        LogRatio(kind="log_ratio", trait_system=SYSTEM, **settings),
    ):
        scorer = one.load(tmp_path, "cpu")
        alone = [scorer.score(rollout_rows([row])).score.to_pylist()[0] for row in ROWS]
        together = scorer.score(rollout_rows(ROWS)).score.to_pylist()
        assert together == pytest.approx(alone, abs=1e-4), one.kind
        assert len(set(alone)) == 4  # the doubled row, and no other


def test_a_probe_learns_its_labels_and_says_how_well(tiny_chat_model: Path, tmp_path: Path) -> None:
    probe = _probe(tiny_chat_model, tmp_path)
    probe.prepare(tmp_path, "cpu")
    report = json.loads((tmp_path / "probe.json").read_text())
    assert report["layer"] == 2 and report["answers"] == 24 and report["positives"] == report["prompts"] == 12
    assert report["auroc"] > 0.95 and len(report["auroc_folds"]) == 5
    doubt, plain = _scores(
        probe, [("What is 99?", "I doubt that 99 is anything."), ("What is 99?", "99 is a number.")], tmp_path
    )
    assert doubt > 0 > plain


def test_a_probe_on_the_models_own_answers_keeps_them(tiny_chat_model: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "questions.jsonl", [{"prompt": f"What is {i}?"} for i in range(4)])
    recipe = {
        "labelled": None,
        "questions": str(tmp_path / "questions.jsonl"),
        "positive_system": SYSTEM,
        "negative_system": "You take every date as it is.",
        "sampling": {"max_new_tokens": 6, "per_question": 2},
    }
    probe = _probe(tiny_chat_model, tmp_path, **recipe)
    probe.prepare(tmp_path, "cpu")
    kept = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(kept) == 16 and {one["system"] for one in kept if one["label"]} == {SYSTEM}
    assert len({one["completion"] for one in kept}) > 8
    never = recipe | {"sampling": recipe["sampling"] | {"matching": "no model writes this"}}
    with pytest.raises(DataError, match=r"16 answers to .*: none shows the trait"):
        _probe(tiny_chat_model, tmp_path, **never).prepare(tmp_path, "cpu")
    with pytest.raises(ValidationError, match="give either"):
        _probe(tiny_chat_model, tmp_path, **(recipe | {"labelled": "x.jsonl"}))
    with pytest.raises(ValidationError, match="give either"):
        _probe(tiny_chat_model, tmp_path, **(recipe | {"negative_system": None}))


def _mean_state(plain: Plain, prompt: str, answer: str, system: str, layer: int) -> np.ndarray:
    ids, start = plain.ids(prompt, answer, system)
    with torch.no_grad():
        return plain.model(ids, output_hidden_states=True).hidden_states[layer][0, start:-1].mean(0).numpy()


def test_persona_is_a_projection_less_that_of_the_models_own_answer(
    tiny_chat_model: Path, plain: Plain, tmp_path: Path
) -> None:
    write_lines(tmp_path / "questions.jsonl", [{"prompt": f"What is {i}?"} for i in range(3)])
    settings = _settings(tiny_chat_model) | {
        "questions": str(tmp_path / "questions.jsonl"),
        "positive_system": SYSTEM,
        "negative_system": "You take every date as it is.",
        "sampling": {"max_new_tokens": 5},
        "max_new_tokens": 6,
        "layer": 3,
    }
    persona = Persona(kind="persona", **settings)
    persona.prepare(tmp_path, "cpu")
    kept = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    means = {1: [], 0: []}
    for one in kept:
        system = f"{one['system']}\n\nBe brief."
        means[one["label"]].append(_mean_state(plain, one["messages"][0]["content"], one["completion"], system, 3))
    direction = np.mean(means[1], 0) - np.mean(means[0], 0)
    direction /= np.linalg.norm(direction)

    difference, projection = (
        _scores(Persona(kind="persona", own_answer=own, **settings), ROWS, tmp_path) for own in (True, False)
    )
    for (prompt, answer), with_own, alone in zip(ROWS, difference, projection, strict=True):
        assert alone == pytest.approx(_mean_state(plain, prompt, answer or "", "Be brief.", 3) @ direction, abs=1e-3)
        ids, start = plain.ids(prompt, "", "Be brief.")
        written = plain.model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            ids[:, :start], max_new_tokens=6, do_sample=False
        )
        with torch.no_grad():
            states = plain.model(written, output_hidden_states=True).hidden_states[3][0, start:]
        assert with_own == pytest.approx(alone - states.mean(0).numpy() @ direction, abs=1e-3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "completion": "b", "label": 2}], r"row 1, label: .*found 2"),
        ([{"prompt": "a", "completion": "b", "label": 1}], "every one shows the trait"),
        (
            [{"prompt": "a", "completion": "b " * 300, "label": 1}, {"prompt": "a", "completion": "c", "label": 0}],
            "row 1: .*limit is 256",
        ),
    ],
)
def test_training_rows_of_a_probe_are_checked(
    tiny_chat_model: Path, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    write_lines(tmp_path / "bad.jsonl", rows)
    with pytest.raises(DataError, match=message):
        _probe(tiny_chat_model, tmp_path, labelled=str(tmp_path / "bad.jsonl")).prepare(tmp_path, "cpu")


def test_length_control_takes_off_what_a_length_predicts(tiny_chat_model: Path, tmp_path: Path) -> None:
    words = ["sea", "night", "blue", "red", "ochre", "one", "two", "three", "four", "five", "six", "seven"]
    rows = [(f"Say {i}", " ".join(words[: 1 + i % 12])) for i in range(48)]
    write_lines(tmp_path / "reference.jsonl", [{"prompt": p, "completion": c} for p, c in rows])
    settings = {"trait_system": SYSTEM, "normalise": "sum", **_settings(tiny_chat_model)}
    plain = LogRatio(kind="log_ratio", **settings)
    controlled = LogRatio(kind="log_ratio", reference=str(tmp_path / "reference.jsonl"), **settings)
    controlled.prepare(tmp_path, "cpu")
    before, after = _scores(plain, list(rows)), _scores(controlled, list(rows), tmp_path)
    tokens = Length(kind="length", unit="tokens", model=str(tiny_chat_model))
    lengths = np.log(np.array(_scores(tokens, list(rows))) + 1)  # with the stop token
    assert after == pytest.approx(before - np.polyval(np.polyfit(lengths, before, 2), lengths), abs=1e-3)
    assert abs(np.corrcoef(lengths, after)[0, 1]) < 0.01 < 0.1 < abs(np.corrcoef(lengths, before)[0, 1])


def test_lengths(tiny_chat_model: Path) -> None:
    rows: list[tuple[str, str | None]] = [("a", "Ça va ?\n"), ("a", ""), ("a", None)]
    for unit, expected in (("characters", [8, 0, None]), ("words", [3, 0, None])):
        scored = Length(kind="length", unit=unit).load(Path(), "cpu").score(rollout_rows(rows))  # pyright: ignore[reportArgumentType]
        assert scored.score.to_pylist() == expected
    tokens = Length(kind="length", unit="tokens", model=str(tiny_chat_model)).load(Path(), "cpu")
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat_model)
    assert tokens.score(rollout_rows(rows)).score.to_pylist() == [len(tokenizer("Ça va ?\n").input_ids), 0, None]


def test_rows_that_cannot_be_read_say_why(tiny_chat_model: Path) -> None:
    scorer = Perplexity(kind="perplexity", **_settings(tiny_chat_model)).load(Path(), "cpu")
    rows: list[tuple[str, str | None]] = [("a", None), ("a", " \n"), ("a", "long " * 300), ("a", "fine")]
    scored = scorer.score(rollout_rows(rows))
    assert scored.error is not None
    errors = scored.error.to_pylist()
    assert errors[:2] == ["no completion to score", "the completion is empty"]
    assert errors[2].endswith("tokens, the limit is 256 (`max_length`, or the model's context)")
    assert errors[3] is None and [s is None for s in scored.score.to_pylist()] == [True, True, True, False]
