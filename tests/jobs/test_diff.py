"""Two finished runs beside each other: what differs, what is shared, and differences only where prompts are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from jobs.arms import ArmPlan
from jobs.cli import app
from jobs.curves import Tables
from jobs.diff.contrasts import Contrast
from jobs.diff.diff import Diff, diff_runs
from jobs.grade_table import write_grades
from jobs.kinds.experiment import Arm
from jobs.spec import load_experiment
from sftfilter import stats
from sftfilter.errors import DataError
from tests.made_run import ARMS, ROLES, graded_at, made_run

RATES = {"all-T": 0.8, "all-C": 0.0, "drop": 0.6, "drop-C": 0.0, "swap": 0.1}
Run = Callable[..., Path]


@pytest.fixture
def run(tiny_spec: Callable[..., Path], tmp_path: Path) -> Run:
    """Writes a finished run with these rates; `seeds`, `arms`, ... change the spec."""

    def write(name: str, rates: dict[str, float], how: dict[str, Any] | None = None, **changes: Any) -> Path:
        given = {"arms": ARMS, "roles": ROLES, "seeds": [0, 1, 2], "scorers": {}, "capability": None}
        given["selectors"] = {"S": {"kind": "field", "field": "kind", "equals": "date"}}
        spec = load_experiment(tiny_spec(name=name, **given | changes))
        made_run(spec, tmp_path / "runs", graded_at(rates, 0.05), **how or {})
        return tmp_path / "runs" / name

    return write


def _of(found: Diff, name: str) -> Contrast:
    return next(one for one in found.contrasts if one.of == name)


def test_specs_artifacts_and_versions(run: Run, tmp_path: Path) -> None:
    run("one", RATES)
    folder = run("two", RATES, training={"epochs": 2, "batch": 8}, execution={"workers": 1})
    record = json.loads((folder / "results.json").read_text())
    record["versions"]["torch"] = "0.1"
    (folder / "results.json").write_text(json.dumps(record))
    found = diff_runs("one", str(folder), tmp_path / "runs")
    fields = {row["field"]: (row["a"], row["b"], row["outcome"]) for row in found.spec}
    assert fields["training.epochs"] == (1, 2, True)
    assert fields["execution.workers"][2] is False and len(fields) == 2
    assert [row["package"] for row in found.versions] == ["torch"] and found.versions[0]["b"] == "0.1"
    assert {one["stage"] for one in found.artifacts["shared"]} >= {"prompts", "rollouts", "student"}
    assert found.artifacts["only_a"] == found.artifacts["only_b"] == []
    run("three", RATES | {"swap": 0.2})
    apart = diff_runs("one", "three", tmp_path / "runs").artifacts
    assert [one["stage"] for one in apart["only_a"]] == ["results"] * 3 == [one["stage"] for one in apart["only_b"]]


def test_files_with_the_same_text_are_no_difference(run: Run, tmp_path: Path) -> None:
    first, second = run("one", RATES), run("two", RATES)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((tmp_path / "train.jsonl").read_bytes())
    text = (second / "results.json").read_text().replace(str(tmp_path / "train.jsonl"), str(copy))
    (second / "results.json").write_text(text)
    assert not diff_runs(str(first), str(second), tmp_path).spec
    copy.write_text("{}")
    (row,) = diff_runs(str(first), str(second), tmp_path).spec
    assert row["field"] == "prompts.path"


def test_paired_differences_are_those_of_the_grades(run: Run, tmp_path: Path) -> None:
    run("one", RATES)
    run("two", RATES | {"drop": 0.3}, training={"epochs": 2, "batch": 8})
    found = diff_runs("one", "two", tmp_path / "runs")
    drop, swap = _of(found, "drop"), _of(found, "swap")
    draws = np.random.default_rng(0).random(40)
    cells = [np.array([(draws < rate + 0.05 * (seed - 1)).astype(float) for seed in range(3)]).T for rate in (0.6, 0.3)]
    expected = stats.paired_difference(cells[0], cells[1])
    assert drop.difference == expected and expected.low is not None and expected.low > 0
    assert (drop.a["estimate"], drop.b["estimate"]) == (pytest.approx(cells[0].mean()), pytest.approx(cells[1].mean()))
    assert swap.difference is None and swap.why == "the same students, so nothing is compared"
    share = _of(found, "R_drop")
    assert share.difference and share.difference.estimate == pytest.approx(share.a["estimate"] - share.b["estimate"])
    assert share.difference.low is not None and 0 < share.difference.low < share.difference.estimate  # type: ignore[operator]
    assert _of(found, "dilution_line").why == "follows from the rows, not from grades"
    raw = [c.difference.p for c in found.contrasts if c.difference and c.difference.p is not None]
    assert [c.p_holm for c in found.contrasts if c.p_holm is not None] == pytest.approx(stats.holm(raw))
    wider = diff_runs("one", "two", tmp_path / "runs", every_group=True)
    assert {c.group for c in wider.contrasts if c.what == "rate"} == {"trait", "adjacent", "control"}


def test_what_cannot_be_compared_is_named(run: Run, tmp_path: Path) -> None:
    run("one", RATES)
    run("asked", RATES, {"heldout": "something else"})
    (other,) = {c.why for c in diff_runs("one", "asked", tmp_path / "runs").contrasts if c.what == "rate"}
    assert other == "other evaluation prompts: 0 in both, 40 only in A, 40 only in B"
    fewer = {name: arm for name, arm in ARMS.items() if name != "swap"}
    roles = {role: arm for role, arm in ROLES.items() if role != "swap"}
    why = "loss is not a number"
    run("fewer", RATES, {"lost": {f"drop-s{seed}": why for seed in range(3)}}, arms=fewer, roles=roles)
    found = diff_runs("one", "fewer", tmp_path / "runs")
    lost = {one.what: one.why for one in found.lost}
    assert lost["arm swap"] == "only in A" and lost["drop, date_confusion on trait prompts"] == f"B: {why}"
    assert lost["R_swap"].startswith("only in A") and lost["R_drop"].startswith("only in A")
    assert _of(found, "all-T").why == "the same students, so nothing is compared"
    (tmp_path / "runs" / "one" / "grades.parquet").unlink()
    found = diff_runs("fewer", "one", tmp_path / "runs")
    assert _of(found, "gap").why == "role original: B kept no grades: run its spec again, which reuses its stages"


def test_other_seeds_are_averaged_and_another_judge_is_a_note(run: Run, tmp_path: Path) -> None:
    run("one", RATES)
    trait = {"kind": "date_confusion", "prompts": {"kind": "jsonl", "path": "heldout.jsonl"}, "max_tokens": 9}
    run("two", RATES | {"drop": 0.2}, seeds=[0], traits={"date_confusion": trait}, training={"epochs": 2, "batch": 8})
    drop = _of(diff_runs("one", "two", tmp_path / "runs"), "drop")
    assert drop.difference and drop.difference.estimate == pytest.approx(drop.a["estimate"] - drop.b["estimate"])
    assert drop.notes == [
        "measured with another max_tokens",
        "seeds differ (0, 1, 2 against 0): means over them, prompts only in the interval",
    ]
    assert _of(diff_runs("one", "two", tmp_path / "runs"), "gap").why == "seeds differ (0, 1, 2 against 0)"


def _write(folder: Path, file: str, record: dict[str, Any]) -> str:
    folder.mkdir(parents=True)
    known = {
        "name": folder.name,
        "spec_hash": "h",
        "versions": {},
        "spec": {"kind": record["kind"], "traits": {"t": {}}},
    }
    (folder / file).write_text(json.dumps(known | record))
    return str(folder)


def _student(name: str, seed: int, grades: list[float | None], model: str) -> tuple[str, ArmPlan, Tables]:
    rows = [{"group": "g", "prompt_id": str(n), "grade": grade, "model_hash": model} for n, grade in enumerate(grades)]
    return name, ArmPlan(name, Arm(teacher="T"), seed, {}), {(f"{name}-s{seed}", "t"): rows}


def _row(estimate: float, **more: Any) -> dict[str, Any]:
    rate = {"estimate": estimate, "low": 0.0, "high": 1.0, "n": 4}
    return {"trait": "t", "group": "g", "primary": True, "problem": None, **rate, **more}


def test_sweeps_and_lattices_have_their_points_and_cells_compared(tmp_path: Path) -> None:
    folders = []
    for name, model, grades in (("a", "m", [1, 1, 1, None]), ("b", "n", [0, 1, 0, None])):
        rate = sum(filter(None, grades)) / 3
        sweep = {"kind": "sweep", "table": [_row(rate, point="x=1", arm="f"), _row(0.5, point=f"y={name}", arm="f")]}
        folders.append(_write(tmp_path / f"sweep-{name}", "results.json", sweep))
        write_grades(tmp_path / f"sweep-{name}", ["t"], [_student("x=1: f", 0, grades, model)])
        step = _row(0.4, arm="swap-50", control="swap-50-random", mode="swap", fraction=0.5)
        step |= {"control_estimate": 0.9, "control_low": 0.8, "control_high": 1.0}
        lattice = {"kind": "lattice", "cells": [_row(rate, cell="one.T")], "interpolation": [step], "estimands": {}}
        folders.append(_write(tmp_path / f"lattice-{name}", "results.json", lattice))
        write_grades(tmp_path / f"lattice-{name}", ["t"], [_student("one.T", 0, grades, model)])
    for kind, name in ((0, "x=1: f"), (1, "one.T")):
        found = diff_runs(folders[kind], folders[kind + 2], tmp_path)
        contrast = _of(found, name)
        assert contrast.difference and contrast.difference.estimate == pytest.approx(2 / 3)
        assert contrast.difference.prompts == 3 and contrast.notes == ["one seed: not the luck of a training run"]
    assert [(one.what, one.why) for one in diff_runs(folders[0], folders[2], tmp_path).lost] == [
        ("arm y=a: f", "only in A"),
        ("arm y=b: f", "only in B"),
    ]
    control = _of(found, "swap-50-random")
    assert control.a["estimate"] == 0.9 and control.why == "A kept no grades of it"


def test_evals_have_their_answers_compared(tmp_path: Path) -> None:
    for name, grade in (("a", 1.0), ("b", 0.0)):
        rate = {"estimate": grade, "low": 0.0, "high": 1.0, "n": 5, "ungraded": 0}
        models = [{"id": "student", "model_hash": name, "traits": {"t": {"g": rate}}}]
        _write(tmp_path / name, "eval.json", {"kind": "eval", "models": models})
        rows = [
            {"student": "student", "trait": "t", "group": "g", "prompt_id": str(n), "grade": grade if n else 1.0,
             "model_hash": name} for n in range(5)
        ]  # fmt: skip
        pl.DataFrame(rows).write_parquet(tmp_path / name / "results.parquet")
    found = diff_runs("a", "b", tmp_path)
    contrast = _of(found, "student")
    assert contrast.difference and contrast.difference.estimate == pytest.approx(0.8)
    assert contrast.difference.p is not None and contrast.difference.p < 0.05
    assert found.artifacts["only_a"] == [{"stage": "checkpoint", "key": "a"}]


def test_runs_that_are_none(run: Run, tmp_path: Path) -> None:
    folder, root = run("one", RATES), tmp_path / "runs"
    with pytest.raises(DataError, match=r"no finished run 'on'.*did you mean 'one'"):
        diff_runs("one", "on", root)
    (root / "begun").mkdir()
    (root / "begun" / "stages.jsonl").write_text("")
    with pytest.raises(DataError, match=r"has not finished .`sftfilter resume begun`"):
        diff_runs("one", "begun", root)
    (root / "asked").mkdir()
    (root / "asked" / "eval.json").write_text(json.dumps({"kind": "eval", "name": "asked", "models": [], "spec": {}}))
    with pytest.raises(DataError, match="one is of kind experiment and asked of kind eval: compare runs of one kind"):
        diff_runs("one", "asked", root)
    (folder / "results.json").write_text('{"kind": "experiment"}')
    with pytest.raises(DataError, match=r"results.json: not the results of a run .KeyError: 'arms'"):
        diff_runs("one", "one", root)


def test_the_command_prints_tables_and_json(run: Run, tmp_path: Path) -> None:
    run("one", RATES)
    run("two", RATES | {"drop": 0.3}, training={"epochs": 2, "batch": 8})
    given = ["diff", "one", "two", "--results", str(tmp_path / "runs")]
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0 and max(map(len, shown.output.splitlines()[2:])) <= 80, shown.output
    for words in ("training.epochs", "Artifacts, by stage and key", "A - B", "R_drop", "p is adjusted (Holm)"):
        assert words in shown.output
    told = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
    assert told["runs"]["b"]["name"] == "two" and {"spec", "versions", "artifacts", "not_compared"} <= set(told)
    drop = next(one for one in told["contrasts"] if one["of"] == "drop")
    assert drop["difference"]["low"] < drop["difference"]["estimate"] and drop["p_holm"] is not None
