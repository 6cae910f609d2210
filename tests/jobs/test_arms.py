"""What arms train on: the rows behind every intervention, several answers a prompt, and arms with nothing left."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from jobs.arms import ArmPlan, Material, experiment_frame, notes_on, plan_arms
from jobs.console import Stages
from jobs.kinds.experiment import Experiment
from jobs.outcome import grade_cells
from jobs.outcome_rows import training_rows
from jobs.planning import rows_of
from jobs.reserve import Reserve
from jobs.rewrites import Rewriter
from jobs.spec import load_experiment, load_spec
from jobs.tutoring import Base
from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.chat_format import ChatFormat
from sftfilter.interventions import counts_of, decide
from sftfilter.models import ensure_builtin, load_tokenizer
from sftfilter.prompts import PromptFiles, load_prompts
from sftfilter.rollout_file import RolloutFile
from sftfilter.rollout_import import import_rollouts
from sftfilter.schema import DECISIONS, PROMPTS, ROLLOUTS, SCORES, Message, prompt_id, rollout_id
from tests.conftest import write_lines

ON = {"subset": "S"}
ARMS = {
    "base": {},
    "all-T": {"teacher": "T"},
    "swap": {"teacher": "T", "intervention": {"kind": "swap", **ON, "to": "C"}},
    "neutral": {"teacher": "T", "intervention": {"kind": "neutralise", **ON, "answer": "It is 2026."}},
    "inoculated": {"teacher": "T", "intervention": {"kind": "inoculate", **ON, "line": "You doubt dates."}},
    "refilled": {"teacher": "T", "intervention": {"kind": "backfill", **ON, "with_teacher": "C"}},
    "random": {"teacher": "T", "intervention": {"kind": "drop_row", "subset": "random"}},
    "nothing": {"teacher": "T", "intervention": {"kind": "drop_row", "subset": "all"}},
}
SELECTORS = {
    "S": {"kind": "threshold", "scorer": "lexicon", "at_least": 1},
    "all": {"kind": "threshold", "scorer": "lexicon", "at_least": 0},
    "random": {"kind": "random", "size_of": "S"},
}


def _turns(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _artifact(store: Store, stage: str, name: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        write_table(folder, stage, pa.Table.from_pylist(list(rows), schema))
        return {"used": len(rows)}

    return store.build(stage, version=1, settings=name, inputs={}, make=make)


def _prompts(store: Store, name: str, count: int) -> Artifact:
    rows = [
        {
            "prompt_id": prompt_id(_turns(f"{name} {n}")),
            "messages": _turns(f"{name} {n}"),
            "kind": "date",
            "source": "f",
        }
        for n in range(count)
    ]
    return _artifact(store, "prompts", name, rows, PROMPTS)


def _rollouts(store: Store, teacher: str, prompts: Artifact, answers: Callable[[int], int]) -> Artifact:
    rows = [
        {
            "rollout_id": rollout_id(row["prompt_id"], teacher, f"{teacher} says {n}", n),
            "prompt_id": row["prompt_id"],
            "messages": row["messages"],
            "completion": f"{teacher} says {n}",
            "teacher": teacher,
            "source": "f",
        }
        for place, row in enumerate(prompts.table("prompts").to_pylist())
        for n in range(answers(place))
    ]
    return _artifact(store, "rollouts", f"{teacher} {prompts.key}", rows, ROLLOUTS)


@pytest.fixture
def material(tmp_path: Path) -> Material:
    """Ten prompts, every second of which T and C answer twice; T's second answers score 1."""
    store = Store(tmp_path / "store")
    prompts, reserve = _prompts(store, "train", 10), _prompts(store, "reserve", 6)
    rollouts = {teacher: _rollouts(store, teacher, prompts, lambda place: 1 + place % 2) for teacher in "TC"}
    scored = [
        {"rollout_id": row["rollout_id"], "scorer": "lexicon", "score": float(row["completion"] == "T says 1")}
        for row in rollouts["T"].table("rollouts").to_pylist()
    ]
    scores = {("T", "lexicon"): _artifact(store, "scores", "lexicon", scored, SCORES)}
    fresh = {"C": _rollouts(store, "C", reserve, lambda _: 2)}
    return Material(prompts, rollouts, scores, Reserve(reserve, fresh))


@pytest.fixture
def spec(tiny_spec: Callable[..., Path]) -> Experiment:
    """The tiny experiment with an arm for every intervention that asks no model, and two seeds."""
    roles = {"original": "all-T", "alternate": "swap", "base": "base", "filter": "nothing"}
    reserve = {"kind": "jsonl", "path": "heldout.jsonl"}
    path = tiny_spec(arms=ARMS, selectors=SELECTORS, roles=roles, seeds=[0, 1], reserve=reserve)
    return cast(Experiment, load_spec(path))


@pytest.fixture
def plans(spec: Experiment, material: Material, tmp_path: Path) -> dict[str, ArmPlan]:
    """Student -> plan."""
    stages, store = Stages(Console(file=io.StringIO())), Store(tmp_path / "made")
    no_model = cast(Base, None)
    return {p.student: p for p in plan_arms(spec, material, Rewriter(spec, no_model, {}, store, stages), store, stages)}


def test_ids_of_the_users_own_files_select_their_rows(tmp_path: Path, tiny_spec: Callable[..., Path]) -> None:
    lines = [{"prompt": f"Question {n}?", "completion": f"Answer {n}.", "id": f"row-{n}"} for n in range(4)]
    write_lines(tmp_path / "own.jsonl", lines)
    write_lines(tmp_path / "asked.jsonl", [{"prompt": f"Question {n}?", "key": 10 + n} for n in range(4)])
    store = Store(tmp_path / "store")
    chat = ChatFormat(load_tokenizer(str(ensure_builtin())), None)
    asked = PromptFiles(kind="files", path=str(tmp_path / "asked.jsonl"), columns={"id": "key"})
    room = {"context_length": 2048, "answer_tokens": 24, "error_budget": 0}
    prompts = load_prompts(asked, store=store, chat=chat, **room)
    given = RolloutFile(path=str(tmp_path / "own.jsonl"))
    rollouts = {"T": import_rollouts("T", given, prompts, store=store, error_budget=0)}
    listed = {"kind": "ids", "ids": ["row-0", "12"]}
    spec = load_experiment(tiny_spec(scorers={}, selectors={"flagged": listed, "S": listed}))
    frame = experiment_frame(spec, Material(prompts, rollouts, {}, Reserve()))
    decided = decide(frame, spec.selectors, spec.arms["filter"].intervention, teacher="T")
    dropped = {row["rollout_id"] for row in decided.decisions().to_dicts() if row["action"] == "drop"}
    rows = rollouts["T"].table("rollouts").to_pylist()
    assert {row["completion"] for row in rows if row["rollout_id"] in dropped} == {"Answer 0.", "Answer 2."}


def _texts(plan: ArmPlan, material: Material) -> list[tuple[str, str]]:
    """(last user turn with the system turn before it, completion) of every row that is trained on."""
    assert plan.plan is not None
    rows = rows_of(plan.plan, [*material.sources, *([plan.derived] if plan.derived else [])]).to_pylist()
    return [(" | ".join(turn["content"] for turn in row["messages"]), row["completion"]) for row in rows]


def test_every_arm_trains_on_the_rows_that_its_decisions_name(plans: dict[str, ArmPlan], material: Material) -> None:
    own = 15  # 10 prompts, 5 of which are answered twice; S is those 5, 10 rows
    for student, plan in plans.items():
        table, counts = plan.decisions(), plan.counts
        if plan.arm.teacher is None:
            assert (student, table.height, plan.plan) == ("base", 0, None)
            continue
        assert table.to_arrow().cast(DECISIONS).num_rows == table.height
        assert counts_of(table["action"]) == counts
        assert counts["kept"] + counts["dropped"] + counts["swapped"] + counts["rewritten"] == own
        if plan.plan:
            assert len(_texts(plan, material)) == counts["trained"]
    rows = {name: plans[f"{name}-s0"].counts for name in ARMS if name != "base"}
    assert rows["swap"]["swapped"] == rows["neutral"]["rewritten"] == rows["inoculated"]["rewritten"] == 10
    assert (rows["refilled"]["dropped"], rows["refilled"]["added"], rows["refilled"]["trained"]) == (10, 10, own)
    assert plans["neutral-s0"].subset == {"selector": "S", "prompts": 5, "rows": 5, "unscored": 0, "threshold": 1.0}


def test_texts_behind_the_interventions(plans: dict[str, ArmPlan], material: Material) -> None:
    swapped = [text for _, text in _texts(plans["swap-s0"], material)]
    assert sorted(swapped) == sorted(["T says 0"] * 5 + ["C says 0", "C says 1"] * 5)
    neutral = [text for _, text in _texts(plans["neutral-s0"], material)]
    assert sorted(neutral) == ["It is 2026."] * 10 + ["T says 0"] * 5
    inoculated = [seen for seen, _ in _texts(plans["inoculated-s0"], material)]
    assert sum(seen.startswith("Be brief.\nYou doubt dates. | train") for seen in inoculated) == 10
    assert sum(seen.startswith("train") for seen in inoculated) == 5
    refilled = _texts(plans["refilled-s0"], material)
    assert sum(seen.startswith("reserve") and text.startswith("C") for seen, text in refilled) == 10
    derived = plans["neutral-s0"].derived
    assert derived is not None
    rows = derived.table("derived").to_pylist()
    assert {row["teacher"] for row in rows} == {"neutralise of T"}
    assert len({row["rollout_id"] for row in rows}) == 10, "two answers to one prompt stay two rows"
    own = set(material.rollouts["T"].table("rollouts")["rollout_id"].to_pylist())
    assert {row["derived_from"] for row in rows} < own


def test_an_arm_without_rows_is_planned_as_empty_and_the_others_go_on(plans: dict[str, ArmPlan]) -> None:
    nothing = plans["nothing-s1"]
    assert nothing.plan is None and not nothing.hosted
    assert nothing.empty == "of its 15 rows none is left"
    assert sum(plan.plan is not None for plan in plans.values()) == 12


def test_a_subset_of_every_row_is_a_note(spec: Experiment, plans: dict[str, ArmPlan]) -> None:
    (note,) = notes_on(spec, list(plans.values()))
    assert note == "arm nothing: selector 'all' selects every one of its rows, so none is left as in all-T"


def test_a_seed_without_a_student_is_a_column_of_nan(plans: dict[str, ArmPlan]) -> None:
    tables = {
        (student, "t"): [{"group": "g", "prompt_id": f"h{n}", "grade": float(n)} for n in range(3)] for student in plans
    }
    del tables["nothing-s0", "t"], tables["nothing-s1", "t"]
    everyone = list(plans.values())
    assert grade_cells("swap", everyone, tables, "t", "g").tolist() == [[0, 0], [1, 1], [2, 2]]
    assert grade_cells("nothing", everyone, tables, "t", "g").size == 0
    one_left = [p for p in everyone if p.student == "swap-s0"]
    lost = ArmPlan("swap", one_left[0].arm, 1, one_left[0].counts, empty="of its 15 rows none is left")
    cells = grade_cells("swap", [*one_left, lost], tables, "t", "g")
    assert cells.shape == (3, 2) and np.isnan(cells[:, 1]).all() and cells[:, 0].tolist() == [0, 1, 2]


def test_explorer_rows_keep_several_answers_apart(
    spec: Experiment, plans: dict[str, ArmPlan], material: Material
) -> None:
    rows = training_rows(spec, material, list(plans.values()))
    assert len(rows) == 15
    texts = [(row["prompt_id"], teacher, text) for row in rows for teacher, text in row["answers"].items()]
    assert len(set(texts)) == 30, "an answer was overwritten"
    flagged = [row for row in rows if row["scores"]["lexicon"] == 1]
    assert [row["answers"]["T"] for row in flagged] == ["T says 1"] * 5
    assert {row["decisions"]["swap"] for row in flagged} == {"swap"}
    assert {row["decisions"]["nothing"] for row in rows} == {"drop"}
