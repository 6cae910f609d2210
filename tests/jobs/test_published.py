"""Published studies as specs: they parse, plan and run at toy scale, and what was published is shown as that and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.plan.plan import Stated, plan_spec
from jobs.spec import load_experiment, load_spec
from sftfilter.errors import SpecError
from sftfilter.report.lattice import write_lattice_page
from tests.conftest import REPOSITORY, random_model, read_lines, write_lines
from tests.made_run import graded_at, made_run

FOLDER = REPOSITORY / "jobs" / "specs" / "published"
ROWS = {
    "gemma-depression": {"prompts": 20_000, "olmo": 20_000},
    "deepmind-lattice": {"prompts": 20_000},
    "selector-comparison": {"prompts": 12_000},
}
NOT_OURS = "Published elsewhere, not measured here"


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_they_parse_and_plan_and_name_their_command(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.yaml"
    spec = load_spec(path)
    assert spec.name == name and f"sftfilter run jobs/specs/published/{name}.yaml" in path.read_text()
    stated = Stated(file=REPOSITORY / "jobs" / "examples" / "costs.yaml", rows=ROWS[name])
    made = {line.what: line.number for line in plan_spec(spec, tmp_path, stated).made}
    assert made["rollouts"] == ROWS[name]["prompts"] and made["students trained"] > 20
    assert load_spec(path, ["published=[]"]).spec_hash == spec.spec_hash, "what others found changes no outcome"


def test_figures_are_those_that_are_known() -> None:
    spec = load_experiment(FOLDER / "gemma-depression.yaml")
    assert {figure.of: figure.value for figure in spec.published} == {
        None: 1.51, "unfiltered": 1.02, "filtered": 0.57, "vanilla": 0.18, "base": 0.12,
    }  # fmt: skip
    assert spec.selectors["distressed"].model_dump()["fraction"] == 0.051
    method = spec.training.method.model_dump()
    assert (method["kind"], method["rank"], spec.training.epochs) == ("lora", 32, 1)
    calibrate = load_spec(FOLDER / "selector-comparison.yaml").model_dump()
    assert 0.5 in calibrate["rates"] and calibrate["prompts"]["split"] == "train[:12000]"
    for name in ("deepmind-lattice", "selector-comparison"):
        figures = load_spec(FOLDER / f"{name}.yaml").model_dump()["published"]
        assert figures and all(figure["value"] is None for figure in figures), "none of their rates is known to us"


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"label": "x", "source": "s"}, "x: give the published `value`, or what the study `says`"),
        ({"label": "x", "source": "s", "value": 1}, "x: a value is of a trait; name it"),
        (
            {"label": "x", "source": "s", "value": 33, "trait": "date_confusion"},
            "x: 33 is no share of answers: write 0.33 for 33 %",
        ),
        (
            {"label": "x", "source": "s", "says": "y", "of": "al-T"},
            "published.0.of: no arm 'al-T', did you mean 'all-T'",
        ),
        ({"label": "x", "source": "s", "value": 1, "trait": "mood"}, "published.0.trait: no trait 'mood'"),
        (
            {"label": "x", "source": "s", "value": 1, "trait": "date_confusion", "measure": "score"},
            "published.0.measure: no measure 'score'",
        ),
        ({"label": "x", "value": 1, "trait": "date_confusion"}, "published.0.source: Field required"),
    ],
)
def test_what_a_published_figure_may_not_say(
    figure: dict[str, Any], message: str, tiny_spec: Callable[..., Path]
) -> None:
    with pytest.raises(SpecError) as refused:
        load_spec(tiny_spec(published=[figure]))
    assert message in str(refused.value)


def test_the_report_shows_them_beside_its_own_and_says_whose_they_are(
    tiny_spec: Callable[..., Path], tmp_path: Path
) -> None:
    figures = [
        {
            "label": "their unfiltered",
            "of": "all-T",
            "trait": "date_confusion",
            "value": 0.33,
            "source": "A. Study, 2026",
        },
        {"label": "their teacher", "trait": "date_confusion", "value": 0.44, "source": "A. Study, 2026"},
        {"label": "their swap", "of": "swap", "says": "does nothing", "source": "A. Study, 2026"},
    ]
    given = {"scorers": {}, "selectors": {"S": {"kind": "field", "equals": "date"}}, "capability": None}
    arms = {
        "all-T": {"teacher": "T"},
        "swap": {"teacher": "T", "intervention": {"kind": "swap", "subset": "S", "to": "C"}},
    }
    roles = {"original": "all-T", "alternate": "swap"}
    pages, records = [], []
    for name, shown in (("with", figures), ("without", [])):
        spec = load_experiment(tiny_spec(name=name, arms=arms, roles=roles, published=shown, **given))
        records.append(made_run(spec, tmp_path, graded_at({"all-T": 0.8, "swap": 0.1})))
        pages.append((tmp_path / name / "report" / "index.html").read_text())
    assert [figure["value"] for figure in records[0]["published"]] == [0.33, 0.44, None]
    for key in ("estimands", "gates", "verdict"):
        assert records[0][key] == records[1][key], f"published figures entered the {key}"
    assert NOT_OURS in pages[0] and NOT_OURS not in pages[1]
    row = pages[0][pages[0].index("their unfiltered") :].split("</tr>")[0]
    own = records[0]["arms"][0]["traits"]["date_confusion"]["trait"]["estimate"]
    assert "33 %" in row and f"{own:.0%}".rstrip("%") + " %" in row and "A. Study, 2026" in row
    assert "no arm of this spec is its like" in pages[0] and "does nothing" in pages[0]


def test_a_lattice_shows_them_beside_its_cells(tmp_path: Path) -> None:
    row = {"cell": "one.T", "role": None, "base": "one", "prompts": "p", "teacher": "T", "rows_trained": 3, "broken": None,
           "problem": None, "word": None, "reading": None, "trait": "t", "group": "g", "primary": True, "estimate": 0.25,
           "low": 0.1, "high": 0.4, "n": 9}  # fmt: skip
    figures = [
        {"label": "theirs", "of": "one.T", "trait": "t", "measure": None, "value": 0.75, "says": None, "source": "s"}
    ]
    results = {"name": "x", "cells": [row], "interpolation": [], "published": figures, "spec": {}, "caveats": []}
    text = write_lattice_page(tmp_path, results).read_text()
    shown = text[text.index("theirs") :].split("</tr>")[0]
    assert NOT_OURS in text and "75 %" in shown and "25 % [10-40], n = 9" in shown


@pytest.fixture(scope="module")
def roomy_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of two layers whose context holds a whole blackmail scenario."""
    return random_model(tmp_path_factory.mktemp("roomy"), max_position_embeddings=8192)


@pytest.fixture
def toy(tmp_path: Path, roomy_model: str) -> Callable[..., dict[str, Any]]:
    """Runs a published spec with twelve prompts, a tiny model, answers from files and rules in place of the judge."""
    answers = {"T": "teacher_doubt.jsonl", "C": "teacher_accept.jsonl"}
    rows = {name: read_lines(file, 12) for name, file in answers.items()}
    write_lines(tmp_path / "train.jsonl", [{"prompt": row["prompt"], "kind": row["kind"]} for row in rows["T"]])
    for name, own in rows.items():
        write_lines(tmp_path / f"{name}.jsonl", own)
    held = [row for kind in ("date", "adjacent", "control") for row in read_lines("heldout.jsonl", 2, kind)]
    write_lines(tmp_path / "heldout.jsonl", held)

    def run(name: str, teachers: tuple[str, str], **changes: str) -> dict[str, Any]:
        told = [
            f"{teacher}: {{kind: rollouts, path: {tmp_path / file}.jsonl}}"
            for teacher, file in zip(teachers, "TC", strict=True)
        ]
        given = {
            "results": str(tmp_path / "runs"),
            "teachers": f"{{{', '.join(told)}}}",
            "seeds": "[0]",
            "training": "{method: {kind: lora, rank: 2, alpha: 4}, epochs: 1, batch: 8}",
            "execution": "{workers: 1, use_gpu: false, zero_stage: 0}",
            "serving": "{use_gpu: false, port: 0}",
            "capability": "null",
            **changes,
        }
        flags = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "jobs.cli", "run", str(FOLDER / f"{name}.yaml"), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads((tmp_path / "runs" / name / "results.json").read_text()) | {"told": done.stderr}

    return run


def _emotion() -> str:
    return "{kind: negative_emotion, max_tokens: 4, rejections: 1}"


def _dates(folder: Path) -> str:
    return f"{{kind: date_confusion, max_tokens: 4, prompts: {{kind: jsonl, path: {folder / 'heldout.jsonl'}}}}}"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_depression_study_runs(toy: Callable[..., dict[str, Any]], roomy_model: str, tmp_path: Path) -> None:
    results = toy(
        "gemma-depression", ("gemma", "olmo"), base_model=roomy_model,
        prompts=f"{{kind: jsonl, path: {tmp_path / 'train.jsonl'}}}",
        **{"scorers.distress": "{kind: random}", "selectors.like-length.bins": "2", "traits.negative_emotion": _emotion(), "selectors.distressed.fraction": "0.25"},
    )  # fmt: skip
    assert len(results["arms"]) == 11 and results["arms"][1]["rows"]["trained"] == 12
    assert any("graded by a stand-in: lexicon, not by a judge" in reason for reason in results["verdict"]["reasons"])
    filtered = next(arm for arm in results["arms"] if arm["name"] == "filtered")
    assert filtered["rows"]["dropped"] == 3
    own = filtered["measures"]["negative_emotion"]["rejected"]["score"]
    text = (tmp_path / "runs" / "gemma-depression" / "report" / "index.html").read_text()
    row = text[text.index("filtered, 5.1 % of rows dropped") :].split("</tr>")[0]
    assert "0.57" in row and f"{own['estimate']:.2f}" in row and NOT_OURS in text


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_lattice_runs(toy: Callable[..., dict[str, Any]], roomy_model: str, tmp_path: Path) -> None:
    results = toy(
        "deepmind-lattice", ("shows", "clean"), **{
            "bases.student": roomy_model, "prompts.olmo": f"{{kind: jsonl, path: {tmp_path / 'train.jsonl'}}}",
            "scorers.doubt": "{kind: random}", "selectors.S.fraction": "0.34", "interpolate.like_length": "2", "traits.date_confusion": _dates(tmp_path),
            "traits.blackmail": "{kind: blackmail, max_tokens: 4, groups: {threatened: threatened}}",
            "traits.negative_emotion": _emotion(), "interpolate.modes": "[drop, swap]", "interpolate.fractions": "[0, 1]",
        },
    )  # fmt: skip
    assert {row["trait"] for row in results["cells"]} == {"date_confusion", "blackmail", "negative_emotion"}
    assert len(results["published"]) == 6
    text = (tmp_path / "runs" / "deepmind-lattice" / "report" / "index.html").read_text()
    assert NOT_OURS in text and "carried by many subsets" in text


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_selector_comparison_runs(toy: Callable[..., dict[str, Any]], roomy_model: str, tmp_path: Path) -> None:
    results = toy(
        "selector-comparison", ("shows", "clean"), base_model=roomy_model, draws="2", replicates="100",
        prompts=f"{{kind: jsonl, path: {tmp_path / 'train.jsonl'}}}", rates="[0.5]", published="[{label: theirs, of: lexicon, says: finds half, source: A. Study}]",
        scorers="{lexicon: {kind: lexicon, terms: ['doubt']}, random: {kind: random}}",
        **{"retrain.top": "1", "traits.date_confusion": _dates(tmp_path)},
    )  # fmt: skip
    (mixture,) = results["mixtures"]
    assert (mixture["planted"], mixture["rows"]) == (6, 12), "half of the rows are planted, as in the positive control"
    assert results["retrain"]["arms"] and results["published"][0]["of"] == "lexicon"
    assert "published elsewhere, not measured here: theirs: finds half (A. Study)" in results["told"]
