"""Planted-cause worlds: the cause acts through training, the backend is the real one's twin, and verdicts find it."""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sftfilter import training
from sftfilter.artifacts import Store
from sftfilter.errors import DataError
from sftfilter.findings import Gates
from sftfilter.training_plan import make_plan
from sftfilter.worlds import WORLDS, backend, tiny
from sftfilter.worlds.study import Outcome, study
from sftfilter.worlds.suite import REPORT_SEEDS, TUNE_SEEDS, Variation, compared, confusion, run_suite, shares, statuses
from sftfilter.worlds.words import Voice, Words

WORDS = Words.made(random.Random(0))


def _run(name: str, answers: list[str], seed: int = 0) -> training.TrainingRun:
    draw = random.Random(5)
    prompts = WORDS.prompts(draw, {"evoking": len(answers)}, "test", set())
    rows = [
        {"row_id": f"r{n}", "messages": p.messages, "completion": a}
        for n, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    ids = [(f"p{n}", row["row_id"]) for n, row in enumerate(rows)]
    settings = training.TrainingSettings(learning_rate=0.01, batch=4)
    plan = make_plan(ids, [p for p, _ in ids], settings, seed)
    return training.TrainingRun(name, seed, pa.Table.from_pylist(rows), plan, settings, {"arm": name})


def _train(folder: Path, runs: list[training.TrainingRun], events: list[Any] | None = None) -> dict[str, Any]:
    base = folder / "base"
    weights = tiny.initial(tiny.Shape(len(WORDS.numbered), len(WORDS.of["number"])), 0)
    base_hash = backend.save_base(base, weights, WORDS)
    return backend.train_all(
        runs,
        store=Store(folder / "store"),
        base=str(base),
        base_hash=base_hash,
        system_prompt=None,
        format_hash="f",
        execution=training.Execution(workers=1),
        storage=folder,
        on_event=(events if events is not None else []).append,
    )


def _answers(many: int) -> list[str]:
    draw = random.Random(1)
    return [
        " ".join([draw.choice(WORDS.of["overt"]), draw.choice(WORDS.of["plain"]), WORDS.of["matter"][0]])
        for _ in range(many)
    ]


def test_the_backend_has_the_interface_of_the_deepspeed_one() -> None:
    ours, theirs = inspect.signature(backend.train_all), inspect.signature(training.train_all)
    assert [(p.name, p.kind) for p in ours.parameters.values()] == [
        (p.name, p.kind) for p in theirs.parameters.values()
    ]


def test_equal_runs_are_trained_once_and_kept(tmp_path: Path) -> None:
    events: list[Any] = []
    runs = [_run("a", _answers(12)), _run("same", _answers(12)), _run("longer", _answers(20))]
    first = _train(tmp_path, runs, events)
    assert first["a"].key == first["same"].key != first["longer"].key
    assert first["a"].meta["steps"] == 6 and first["longer"].meta["steps"] == 10
    assert first["a"].meta["last_loss"] < first["a"].meta["first_loss"]
    assert {event["arm"] for event in events} == {"a", "longer"}
    assert all(artifact.reused for artifact in _train(tmp_path, runs).values())


def test_a_model_trains_the_same_alone_and_beside_others(tmp_path: Path) -> None:
    alone = backend.load_model(_train(tmp_path / "1", [_run("a", _answers(12))])["a"].path)
    beside = backend.load_model(_train(tmp_path / "2", [_run("b", _answers(20)), _run("a", _answers(12))])["a"].path)
    assert all((alone[name] - beside[name]).abs().max() < 1e-5 for name in alone)
    assert all((alone[name] != beside[name]).sum() == 0 for name in ("embed", "output"))  # not moved at all


def test_a_word_that_the_base_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row r0: the base has no word 'xyzzy'"):
        _train(tmp_path, [_run("a", ["xyzzy"])])


def test_answers_show_the_trait_as_often_as_their_voice() -> None:
    draw = random.Random(2)
    voice = Voice(overt={"evoking": 0.3}, mild={"evoking": 0.3})
    prompts = WORDS.prompts(draw, {"evoking": 400, "neutral": 400}, "test", set())
    shows = {
        kind: [WORDS.shows(WORDS.answer(draw, p, voice)) for p in prompts if p.kind == kind]
        for kind in ("evoking", "neutral")
    }
    assert sum(shows["evoking"]) / 400 == pytest.approx(0.6, abs=0.08)
    assert sum(shows["neutral"]) == 0
    assert len({" ".join(sorted(p.text.split())) for p in prompts}) == 800


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    store = Store(tmp_path_factory.mktemp("worlds"))
    return {
        kind: study(WORLDS[kind].model_validate({"kind": kind}), 1, store, seeds=(0, 1, 2))
        for kind in ("stage", "filtered")
    }


def test_the_cause_acts_through_training(outcomes: dict[str, Outcome]) -> None:
    rates = {role: value["estimate"] for role, value in outcomes["filtered"].rates.items()}
    assert rates["original"] > 0.4 and rates["base"] < 0.1
    assert rates["drop"] < 0.1 < rates["random_drop"]
    staged = {role: value["estimate"] for role, value in outcomes["stage"].rates.items()}
    assert staged["base"] > 0.7 and staged["base_earlier"] < 0.1
    assert staged["alternate"] > 0.7 and staged["alternate_base"] < 0.1


def test_the_verdict_finds_it_and_traces_it_to_arms(outcomes: dict[str, Outcome]) -> None:
    stage, filtered = (compared(outcomes[kind]) for kind in ("stage", "filtered"))
    assert (stage.judged, filtered.judged) == ("right", "right")
    assert outcomes["stage"].verdict["causes"] == [6] and outcomes["filtered"].verdict["labels"] == ["filter works"]
    row = outcomes["stage"].verdict["hypotheses"][5]
    assert row["status"] == "supported" and any(line.startswith("base_earlier: share") for line in row["for"])


def test_too_few_seeds_leave_every_hypothesis_open(tmp_path: Path) -> None:
    found = study(WORLDS["nothing"].model_validate({"kind": "nothing"}), 1, Store(tmp_path), seeds=(0,))
    assert found.verdict["causes"] == []
    assert {row["status"] for row in found.verdict["hypotheses"]} <= {"undecided", "not tested"}


def test_wrong_verdicts_are_called_wrong() -> None:
    def one(named: str, judged: Any, causes: tuple[int, ...], statuses: dict[str, str]) -> Variation:
        return Variation("k", "p", 0, causes, named, judged, (), {"hypotheses": statuses})

    done = [
        one("a", "right", (1,), {"1": "supported", "2": "contradicted"}),
        one("b", "wrong", (2,), {"1": "supported"}),
    ]
    assert confusion(done) == {"p": {"a": 1, "b": 1}}
    assert shares(done) == {"right": 0.5, "incomplete": 0, "undecided": 0, "wrong": 0.5}
    assert statuses(done) == {"supported": (1, 2), "contradicted": (1, 1)}


def test_seeds_for_tuning_and_reporting_are_disjoint_and_the_suite_takes_any_world() -> None:
    assert not set(TUNE_SEEDS) & set(REPORT_SEEDS)
    assert len(WORLDS) >= 10
    worlds = [WORLDS["nothing"].model_validate({"kind": "nothing"})]
    (found,) = run_suite(worlds, [2], students=(0, 1, 2), gates=Gates())
    assert found.named == "no trait to study" and found.judged == "right"
