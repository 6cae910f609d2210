"""Calibration: what a spec may say, what follows from known grades and figures, and the whole bench at its smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jobs.calibrate_retrain import CLEAN, NOTHING, ORACLE, RANDOM, conclude, found_by
from jobs.calibrate_words import caveats, recommend
from jobs.kinds.calibrate import Calibrate
from jobs.spec import load_spec
from sftfilter.errors import SpecError
from tests.conftest import REPOSITORY


@pytest.fixture
def bench_spec(tiny_spec: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a spec on 12 prompts and rollout files: 3 planted rows, 5 students of one or two optimizer steps."""

    def write(**changes: Any) -> Path:
        data = yaml.safe_load(tiny_spec().read_text())
        shared = ("system_prompt", "prompts", "teachers", "training", "serving", "traits", "results")
        spec = {
            "kind": "calibrate",
            "name": "tiny",
            "trait_teacher": "T",
            "clean_teacher": "C",
            "scorers": {
                "lexicon": {"kind": "lexicon", "terms": [r"\bdoubt", r"\b202[0-5]\b", r"\b(?:not|n't) "]},
                "random": {"kind": "random"},
            },
            "rates": [0.1, 0.25],
            "subtleties": {"overt": {"shows": True}, "mild": {"shows": False}},
            "draws": 4,
            "replicates": 200,
            "retrain": {"top": 1, "subtlety": "overt", "rate": 0.25},
        }
        path = tmp_path / "bench.yaml"
        path.write_text(yaml.safe_dump({k: data[k] for k in shared} | spec | changes, sort_keys=False))
        return path

    return write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean_teacher": "T"}, "are the same"),
        ({"trait_teacher": "X"}, "trait_teacher: no teacher 'X'"),
        ({"scorers": {}}, "name at least one"),
        ({"retrain": {"subtlety": "overts", "rate": 0.25}}, "no subtlety 'overts', did you mean 'overt'"),
        ({"retrain": {"subtlety": "overt", "rate": 0.2}}, "0.2 is not one of `rates`"),
        ({"rates": [0.7]}, "less than or equal to 0.5"),
        ({"rates": [0.1, 0.1]}, "listed twice"),
    ],
)
def test_a_wrong_spec_is_refused(bench_spec: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(bench_spec(**change))


def test_the_shipped_spec_is_valid() -> None:
    spec = load_spec(REPOSITORY / "jobs" / "specs" / "calibration.yaml")
    assert isinstance(spec, Calibrate)
    assert spec.retrain and spec.summary().endswith(f"{4 + spec.retrain.top} students to train")


def _grades(share: float) -> np.ndarray:
    """100 prompts, one seed."""
    return (np.arange(100) < 100 * share).astype(float)[:, None]


def _spec(bench_spec: Callable[..., Path], **changes: Any) -> Calibrate:
    spec = load_spec(bench_spec(**changes))
    assert isinstance(spec, Calibrate)
    return spec


def test_shares_of_the_oracles_gain(bench_spec: Callable[..., Path]) -> None:
    spec = _spec(bench_spec)
    rates = {CLEAN: 0.0, NOTHING: 0.8, ORACLE: 0.1, RANDOM: 0.7, found_by("lexicon"): 0.45}
    made = conclude(spec, [], {name: _grades(rate) for name, rate in rates.items()}, ["lexicon"])
    assert made.problem is None
    share, below = made.recovered["lexicon"].share, made.recovered["lexicon"].below_random
    assert share.estimate == pytest.approx(0.5)
    assert share.low is not None and share.high is not None and 0.3 < share.low < 0.5 < share.high < 0.7
    assert below.estimate == pytest.approx(0.25) and below.low is not None and below.low > 0


@pytest.mark.parametrize(
    ("nothing", "oracle", "message"), [(0.1, 0.0, "transmits no trait"), (0.8, 0.8, "does not lower the trait")]
)
def test_nothing_is_said_past_a_closed_gate(
    bench_spec: Callable[..., Path], nothing: float, oracle: float, message: str
) -> None:
    rates = {CLEAN: 0.0, NOTHING: nothing, ORACLE: oracle, RANDOM: nothing, found_by("lexicon"): 0.0}
    made = conclude(_spec(bench_spec), [], {name: _grades(rate) for name, rate in rates.items()}, ["lexicon"])
    assert made.problem is not None and message in made.problem
    assert not made.recovered


def _results() -> dict[str, Any]:
    def worth(scorer: str, subtlety: str, auprc: float, auroc: float, mark: str = "") -> dict[str, Any]:
        spread = {"low": auprc - 0.05, "high": auprc + 0.05, "n": 9}
        value = {"estimate": auprc, **spread}
        return {
            "scorer": scorer,
            "subtlety": subtlety,
            "rate": 0.1,
            "auprc": value,
            "auroc": value | {"estimate": auroc},
            "precision": value,
            "recall_at_twice": value,
            "better_than_chance": mark == "*",
            "reversed": mark == "r",
        }

    return {
        "scorers": {
            "probe": {"kind": "probe", "seconds_per_1000_rows": 9.0, "rows_timed": 1},
            "words": {"kind": "lexicon", "seconds_per_1000_rows": 0.1, "rows_timed": 1},
            "length": {"kind": "length", "seconds_per_1000_rows": 0.1, "rows_timed": 1},
            "random": {"kind": "random", "seconds_per_1000_rows": 0.1, "rows_timed": 0},
        },
        "mixtures": [{"subtlety": s, "rate": 0.1, "planted": 10, "rows": 100} for s in ("overt", "mild")],
        "table": [
            worth("probe", "overt", 0.9, 0.95, "*"),
            worth("words", "overt", 0.88, 0.9, "*"),
            worth("length", "overt", 0.1, 0.2, "r"),
            worth("random", "overt", 0.11, 0.5),
            worth("probe", "mild", 0.12, 0.55),
            worth("words", "mild", 0.1, 0.5),
            worth("length", "mild", 0.1, 0.5),
            worth("random", "mild", 0.3, 0.7, "*"),
        ],
        "retrain": None,
    }


def test_the_recommendation_says_what_the_figures_do(bench_spec: Callable[..., Path]) -> None:
    results = _results()
    overt, wrong, mild = recommend(results)
    assert overt.startswith("overt rows: trust probe first") and "(chance 0.10)" in overt
    assert "Within its interval: words. The cheapest of these is words, 0.1 s per 1,000 rows." in overt
    assert wrong.startswith("overt rows: length ranks them below the others")
    assert mild.startswith("mild rows: no scorer is shown to find them better than chance"), "random is no candidate"

    results["retrain"] = {"problem": "this mixture transmits no trait", "recovered": {}, "seeds": 1}
    assert "Nothing can be said" in recommend(results)[-1]
    said = " ".join(caveats(_spec(bench_spec), results))
    assert "random is random and yet differs from chance" in said
    assert "without a cost here: random" in said
    assert "one training seed" in said


def test_a_scorer_that_learned_from_a_teachers_own_rows_is_named(bench_spec: Callable[..., Path]) -> None:
    scorers = {
        "known": {"kind": "influence", "query": "T.jsonl"},
        "other": {"kind": "influence", "query": "heldout.jsonl"},
        "words": {"kind": "lexicon", "terms": ["doubt"]},
    }
    said = " ".join(caveats(_spec(bench_spec, scorers=scorers), _results()))
    assert "known learned from rows" in said
    assert "other" not in said.split("learned from rows")[0].rsplit(".", 1)[1]


def _run(spec: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli", "run", str(spec), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, cwd=REPOSITORY)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_bench(bench_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = bench_spec()
    done = _run(spec)
    assert done.returncode == 0, done.stderr[-4000:]
    path = tmp_path / "runs" / "tiny" / "results.json"
    results = json.loads(path.read_text())

    counts = results["counts"]
    assert counts["clean_read"] == counts["trait_read"] == 12
    overt = [m for m in results["mixtures"] if m["subtlety"] == "overt"]
    assert [(m["rate"], m["planted"], m["draws"]) for m in overt] == [(0.1, 1, 4), (0.25, 3, 4)]
    assert {s["subtlety"] for s in results["skipped"]} <= {"mild"}, "every doubting teacher row shows the trait"
    by_name = {(w["scorer"], w["subtlety"], w["rate"]): w for w in results["table"]}
    lexicon, chance = (by_name[name, "overt", 0.25] for name in ("lexicon", "random"))
    assert lexicon["auroc"]["estimate"] > 0.7 > chance["precision"]["estimate"]
    assert results["scorers"]["lexicon"]["errors"] == 0
    assert results["scorers"]["lexicon"]["seconds_per_1000_rows"] > 0

    arms = {arm["name"]: arm for arm in results["retrain"]["arms"]}
    assert list(arms) == [CLEAN, NOTHING, ORACLE, RANDOM, found_by("lexicon")]
    assert [arm["removed"] for arm in arms.values()] == [0, 0, 3, 3, 3]
    assert [arms[name]["planted_left"] for name in (CLEAN, NOTHING, ORACLE)] == [0, 3, 0]
    assert "overt rows" in " ".join(results["recommendation"])
    assert "AUPRC" in done.stderr and "lexicon" in done.stderr and "oracle" in done.stderr

    again = _run(spec, "--set", "retrain=null", "--set", "draws=2")
    assert again.returncode == 0, again.stderr[-4000:]
    repeated = json.loads(path.read_text())
    assert all(stage["reused"] for stage in repeated["stages"]), "other mixtures scored or trained something anew"
    assert repeated["retrain"] is None
    assert repeated["scorers"] == results["scorers"], "the cost is the one measured when the rows were scored"
