"""What every member of the Scorer union keeps to. A new scorer adds its settings to `cases`, and is tested with the rest."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from sftfilter.config import Settings
from sftfilter.scorers import Scorer
from sftfilter.scorers.contract import ScorerSettings
from sftfilter.scoring import score_rows
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
        neutral: field -> another value, none of which does. With `decides` it covers every field but `kind`.
        content: a file the spec names; other bytes in it are another fingerprint.
        scores_empty: an empty completion has a score that means something.
        runs: can be prepared and loaded here, without a server.
    """

    spec: dict[str, Any]
    decides: dict[str, Any] = field(default_factory=dict)
    neutral: dict[str, Any] = field(default_factory=dict)
    content: str | None = None
    scores_empty: bool = False
    runs: bool = True


_MODEL_DECIDES = {"system_prompt": "Be brief.", "dtype": "bfloat16", "max_length": 200}


def cases(folder: Path, model: Path) -> dict[str, Case]:
    """A case for each kind; `folder` is for the files that specs name, `model` a tiny causal LM (and `model-b` its copy)."""
    lm = {"model": str(model), "dtype": "float32"}
    moved = {"model": f"{model}-b", "tokens_per_pass": 64}
    answers = [
        {"prompt": f"What is {i}?", "completion": text, "label": label}
        for i in range(6)
        for text, label in ((f"I doubt {'that ' * i}it is {i}.", 1), (f"{i} is a number.", 0))
    ]
    contrast = {"questions": str(folder / "b.jsonl"), "positive_system": "You doubt.", "negative_system": "You trust."}
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(folder / name, answers if name == "a.jsonl" else [answers[0] | {"prompt": "Is it?"}])
    (folder / "rubric.txt").write_text("How much doubt is there?")
    file = str(folder / "a.jsonl")
    return {
        "column": Case({"rating": "doubt"}, {"rating": "other", "negate": True}, scores_empty=True),
        "embedding": Case(
            {"positives": ["I doubt it."], "positives_file": file},
            {"positives": ["No."], "negatives": ["Yes."], "compare": "nearest", "dtype": "bfloat16"}
            | {"negatives_file": file, "positives_file": None},
            {"tokens_per_pass": 64},
            content=file,
        ),
        "length": Case({}, {"unit": "words"}, scores_empty=True),
        "lexicon": Case({"terms": ["doubt"]}, {"terms": ["doubts"]}, scores_empty=True),
        "log_ratio": Case(
            lm | {"trait_system": "You doubt."},
            _MODEL_DECIDES | {"trait_system": "You do not.", "normalise": "sum", "reference": file},
            moved,
        ),
        "perplexity": Case(lm, _MODEL_DECIDES, moved),
        "persona": Case(
            lm | contrast | {"max_new_tokens": 4, "sampling": {"max_new_tokens": 4}},
            _MODEL_DECIDES
            | {"positive_system": "D", "negative_system": "T", "layer": 1, "sampling": {"seed": 1}, "own_answer": False}
            | {"max_new_tokens": 5},
            moved,
            content=contrast["questions"],
        ),
        "probe": Case(
            lm | {"labelled": file},
            _MODEL_DECIDES | {"layer": 1, "penalty": 1.0, "sampling": {"seed": 1}},
            moved,
            content=file,
        ),
        "random": Case({}, {"seed": 1}, scores_empty=True),
    }


@pytest.fixture(scope="module")
def case_of(tmp_path_factory: pytest.TempPathFactory, tiny_chat_model: Path) -> Callable[[str], Case]:
    import shutil

    copy = Path(f"{tiny_chat_model}-b")
    if not copy.exists():
        shutil.copytree(tiny_chat_model, copy)

    def find(kind: str) -> Case:
        found = cases(tmp_path_factory.mktemp("cases"), tiny_chat_model).get(kind)
        if found is None:
            pytest.fail(f"scorer '{kind}' has no case: add one to `cases` in {__file__}")
        return found

    return find


def _parse(kind: str, spec: dict[str, Any]) -> Any:
    return TypeAdapter(Scorer).validate_python({"kind": kind} | spec)


@pytest.mark.parametrize("kind", MEMBERS)
def test_settings_travel(kind: str, case_of: Callable[[str], Case]) -> None:
    """Ray ships them pickled, specs are kept as JSON; both name the same scores afterwards."""
    settings = _parse(kind, case_of(kind).spec)
    assert isinstance(settings, Settings) and settings.model_config.get("frozen")
    assert pickle.loads(pickle.dumps(settings)) == settings
    again = _parse(kind, json.loads(settings.model_dump_json()))
    assert again == settings and again.fingerprint() == settings.fingerprint()
    assert set(settings.needs) <= set(rollout_rows([("a", "b")]).column_names)


@pytest.mark.parametrize("kind", MEMBERS)
def test_the_fingerprint_changes_with_what_decides_and_with_nothing_else(
    kind: str, case_of: Callable[[str], Case]
) -> None:
    case = case_of(kind)
    before = _parse(kind, case.spec).fingerprint()
    for name, value in case.decides.items():
        assert _parse(kind, case.spec | {name: value}).fingerprint() != before, name
    for name, value in case.neutral.items():
        assert _parse(kind, case.spec | {name: value}).fingerprint() == before, name
    if case.content:
        path = Path(case.content)
        moved = path.rename(path.with_name("elsewhere.jsonl"))
        fields = [name for name, value in case.spec.items() if value == case.content]
        assert _parse(kind, case.spec | {name: str(moved) for name in fields}).fingerprint() == before
        path.write_bytes(moved.read_bytes() + b"\n")
        assert _parse(kind, case.spec).fingerprint() != before


@pytest.mark.parametrize("kind", MEMBERS)
def test_odd_rows_get_an_error_and_never_a_zero(kind: str, case_of: Callable[[str], Case], tmp_path: Path) -> None:
    case = case_of(kind)
    if not case.runs:
        pytest.skip("needs a server; tested with one elsewhere")
    settings = _parse(kind, case.spec)
    settings.prepare(tmp_path, "cpu")
    scorer = settings.load(tmp_path, "cpu")
    columns = ["rollout_id", *settings.needs]
    assert score_rows(scorer, rollout_rows([]).select(columns))["score"].to_pylist() == []

    rows = rollout_rows([("Is it 3?", "I doubt it."), ("Is it 3?", None), ("Is it 4?", "")], {"doubt": 0.5})
    found = {name: column.to_pylist() for name, column in score_rows(scorer, rows.select(columns)).items()}
    assert found["score"][0] is not None and found["error"][0] is None
    if "completion" in settings.needs:
        assert found["score"][1] is None and found["error"][1]
    if not case.scores_empty:
        assert found["score"][2] is None and found["error"][2]
    if "messages" in settings.needs:
        bare = rows.set_column(2, "messages", [[None] * 3]).cast(rows.schema).select(columns)
        scored = score_rows(scorer, bare)
        assert scored["score"].to_pylist() == [None] * 3 and all(scored["error"].to_pylist())
