"""What every member of the Scorer union keeps to. A new scorer adds its settings to `cases`, and is tested with the rest."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from sftfilter.filter_actor import score_rows
from sftfilter.schema import MESSAGE
from sftfilter.scorers import Scorer
from sftfilter.scorers.contract import LoadedScorer, ScorerSettings
from tests.conftest import write_lines
from tests.sftfilter.rows import rollout_rows

MEMBERS: dict[str, type[ScorerSettings]] = {
    get_args(member.model_fields["kind"].annotation)[0]: member for member in get_args(get_args(Scorer)[0])
}


@dataclass(frozen=True)
class Case:
    """A scorer as a spec has it.

    Attributes:
        spec: the mapping, `kind` included.
        decides: field -> another value, each of which may change a score.
        neutral: field -> another value, none of which does.
        content: a file the spec names; where it lies is no matter, other bytes in it are another fingerprint.
        others: fields that cannot be tried alone here. All cases of a kind together try every other field.
        scores_empty: an empty completion has a score that means something.
        runs: can be prepared and loaded here, without a server.
    """

    spec: dict[str, Any]
    decides: dict[str, Any] = field(default_factory=dict)
    neutral: dict[str, Any] = field(default_factory=dict)
    content: str | None = None
    others: set[str] = field(default_factory=set)
    scores_empty: bool = False
    runs: bool = True


_MODEL_DECIDES = {"system_prompt": "Be brief.", "dtype": "bfloat16", "max_length": 200}


def cases(folder: Path, model: Path) -> list[Case]:
    """At least one for each kind; `folder` holds the files that specs name, `model` is a tiny causal LM, with a copy `-b`."""
    lm = {"model": str(model), "dtype": "float32"}
    moved = {"model": f"{model}-b", "tokens_per_pass": 64}
    labelled, questions, rubric = (str(folder / name) for name in ("labelled.jsonl", "questions.jsonl", "rubric.txt"))
    rows = [
        {"prompt": f"What is {i}?", "completion": text, "label": label}
        for i in range(6)
        for text, label in ((f"I doubt {'that ' * i}it is {i}.", 1), (f"{i} is a number.", 0))
    ]
    write_lines(Path(labelled), rows)
    write_lines(Path(questions), [{"prompt": "Is it?"}, {"prompt": "What is it?"}])
    Path(rubric).write_text("How much doubt is there?")
    short = {"max_new_tokens": 4}
    contrast = {"questions": questions, "positive_system": "You doubt.", "negative_system": "You trust."}
    other_contrast = {"positive_system": "D", "negative_system": "T", "sampling": short | {"seed": 1}}
    judge = {"kind": "judge", "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}}
    form = {"low": 1, "high": 5, "form": "json", "quote": True, "sees": "completion", "loops": "score", "longest": 10}
    return [
        Case({"kind": "column", "rating": "doubt"}, {"rating": "other", "negate": True}),
        Case(
            {"kind": "embedding", "positives": ["I doubt it."], "positives_file": labelled},
            {"positives": ["No."], "negatives": ["Yes."], "compare": "nearest", "dtype": "bfloat16"}
            | {"negatives_file": labelled, "positives_file": None},
            {"tokens_per_pass": 64},
            content=labelled,
            others={"model"},
        ),
        Case({"kind": "embedding", "labelled": labelled}, content=labelled),
        Case(
            {"kind": "influence", "labelled": labelled} | lm,
            _MODEL_DECIDES | {"similarity": "dot", "rank": 2, "last_blocks": 1, "seed": 1},
            moved,
            content=labelled,
            others={"query", "contrast"},
        ),
        Case(
            judge | {"rubric_file": rubric},
            form
            | {"loop_share": 0.9, "max_tokens": 9, "temperature": 1, "seed": 1}
            | {"endpoint": judge["endpoint"] | {"model": "n"}},
            {"endpoint": judge["endpoint"] | {"timeout_s": 9, "api_key_env": "KEY"}},
            content=rubric,
            runs=False,
        ),
        Case(judge | {"rubric": "Doubt?"}, {"rubric": "Much doubt?"}, runs=False),
        Case({"kind": "length"}, {"unit": "words"}, scores_empty=True),
        Case({"kind": "length", "unit": "tokens", "model": str(model)}, {}, {"model": f"{model}-b"}, scores_empty=True),
        Case({"kind": "lexicon", "terms": ["doubt"]}, {"terms": ["doubts"]}, scores_empty=True),
        Case(
            {"kind": "log_ratio", "trait_system": "You doubt."} | lm,
            _MODEL_DECIDES | {"trait_system": "You do not.", "normalise": "sum", "reference": labelled},
            moved,
        ),
        Case({"kind": "log_ratio", "trait_system": "You doubt.", "reference": labelled} | lm, content=labelled),
        Case({"kind": "perplexity"} | lm, _MODEL_DECIDES, moved),
        Case(
            {"kind": "persona", "sampling": short} | lm | contrast | short,
            _MODEL_DECIDES | other_contrast | {"layer": 1, "own_answer": False, "max_new_tokens": 5},
            moved,
            content=questions,
        ),
        Case(
            {"kind": "plugin", "target": "tests.sftfilter.rows:count_word"},
            {"options": {"word": "trust"}, "revision": "2"},
            others={"target", "columns", "holds_model"},
            scores_empty=True,
        ),
        Case(
            {"kind": "probe", "labelled": labelled} | lm,
            _MODEL_DECIDES | {"layer": 1, "penalty": 1.0},
            moved,
            content=labelled,
        ),
        Case({"kind": "probe", "sampling": short} | lm | contrast, other_contrast, content=questions),
        Case({"kind": "random"}, {"seed": 1}, scores_empty=True),
    ]


@pytest.fixture
def cases_of(tmp_path: Path, tiny_chat_model: Path) -> Callable[[str], list[Case]]:
    copy = Path(f"{tiny_chat_model}-b")
    if not copy.exists():
        shutil.copytree(tiny_chat_model, copy)

    def find(kind: str) -> list[Case]:
        (tmp_path / "cases").mkdir()
        found = [case for case in cases(tmp_path / "cases", tiny_chat_model) if case.spec["kind"] == kind]
        assert found, f"scorer '{kind}' has no case: add one to `cases` in {__file__}"
        return found

    return find


def _parse(spec: dict[str, Any]) -> Any:
    return TypeAdapter(Scorer).validate_python(spec)


@pytest.mark.parametrize("kind", MEMBERS)
def test_settings_travel(kind: str, cases_of: Callable[[str], list[Case]]) -> None:
    """Ray ships them pickled, specs are kept as JSON; both name the same scores afterwards."""
    for case in cases_of(kind):
        settings = _parse(case.spec)
        assert isinstance(settings, ScorerSettings) and settings.model_config.get("frozen")
        assert pickle.loads(pickle.dumps(settings)) == settings
        again = _parse(json.loads(settings.model_dump_json()))
        assert again == settings and again.fingerprint() == settings.fingerprint()
        assert set(settings.needs) <= set(rollout_rows([("a", "b")]).column_names)


@pytest.mark.parametrize("kind", MEMBERS)
def test_the_fingerprint_changes_with_what_decides_and_with_nothing_else(
    kind: str, cases_of: Callable[[str], list[Case]]
) -> None:
    tried = {"kind"}
    for case in cases_of(kind):
        before = _parse(case.spec).fingerprint()
        for name, value in case.decides.items():
            assert _parse(case.spec | {name: value}).fingerprint() != before, name
        for name, value in case.neutral.items():
            assert _parse(case.spec | {name: value}).fingerprint() == before, name
        fields = [name for name, value in case.spec.items() if case.content and value == case.content]
        if case.content:
            path = Path(case.content)
            moved = path.rename(path.with_name(f"elsewhere-{path.name}"))
            assert _parse(case.spec | {name: str(moved) for name in fields}).fingerprint() == before
            path.write_bytes(moved.read_bytes() + (b"\n" if path.suffix == ".jsonl" else b"\nBe strict."))
            assert _parse(case.spec).fingerprint() != before
        tried |= {*case.decides, *case.neutral, *fields, *case.others}
    untried = set(MEMBERS[kind].model_fields) - tried
    assert not untried, f"fields of '{kind}' that no case in {__file__} changes: {sorted(untried)}"


@pytest.mark.parametrize("kind", MEMBERS)
def test_odd_rows_get_an_error_and_never_a_zero(
    kind: str, cases_of: Callable[[str], list[Case]], tmp_path: Path
) -> None:
    for number, case in enumerate(cases_of(kind)):
        if not case.runs:
            pytest.skip("needs a server; tested with one elsewhere")
        settings = _parse(case.spec)
        prepared = tmp_path / f"prepared-{number}"
        prepared.mkdir()
        settings.prepare(prepared, "cpu")
        _check_odd_rows(settings, settings.load(prepared, "cpu"), case.scores_empty)


def _check_odd_rows(settings: ScorerSettings, scorer: LoadedScorer, scores_empty: bool) -> None:
    columns = list(dict.fromkeys(["rollout_id", *settings.needs]))
    assert score_rows(scorer, rollout_rows([]).select(columns))["score"].to_pylist() == []

    rows = rollout_rows([("Is it 3?", "I doubt it."), ("Is it 3?", None), ("Is it 4?", "")], {"doubt": 0.5})
    found = {name: column.to_pylist() for name, column in score_rows(scorer, rows.select(columns)).items()}
    assert found["score"][0] is not None and found["error"][0] is None
    if "completion" in settings.needs:
        assert found["score"][1] is None and found["error"][1]
        assert scores_empty or (found["score"][2] is None and found["error"][2])
    if "messages" in settings.needs:
        bare = pa.table(rows.set_column(2, "messages", pa.nulls(3, pa.list_(MESSAGE)))).select(columns)
        scored = score_rows(scorer, bare)
        assert scored["score"].to_pylist() == [None] * 3 and all(scored["error"].to_pylist())
