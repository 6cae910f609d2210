"""Sweeps: points out of a space, one student for equal rows, and a real sweep that grows without training anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import yaml

from jobs.arms import ArmPlan
from jobs.kinds.sweep import Sweep
from jobs.spec import load_spec
from jobs.sweep_outcome import caveats
from jobs.sweep_points import Point, points_of, short_names
from jobs.sweep_students import Planned
from jobs.sweep_table import Measured, comparisons, measured, tidy
from sftfilter.errors import MachineError, SpecError
from sftfilter.stats import benjamini_hochberg
from sftfilter.training_plan import TrainingPlan
from sftfilter.trials import Trained
from tests.conftest import REPOSITORY

SPEC = REPOSITORY / "jobs" / "specs" / "sweep.yaml"
FLAGGED = "selectors.flagged.at_least"


def _sweep(*overrides: str) -> Sweep:
    spec = load_spec(SPEC, overrides)
    assert isinstance(spec, Sweep)
    return spec


def test_grids_are_combined_and_labelled_by_what_tells_fields_apart() -> None:
    points = points_of(_sweep())
    assert len(points) == 9 == _sweep().size()
    assert points[0].label == "at_least=1, intervention=drop_row flagged"
    last = points[-1].spec
    assert last.name == "sweep" and last.selectors["flagged"].model_dump()["at_least"] == 3
    assert last.arms["lexicon-filter"].model_dump()["intervention"]["kind"] == "swap"
    assert points[0].spec.model_dump(exclude={"arms", "selectors"}) == last.model_dump(exclude={"arms", "selectors"})
    names = short_names({"a.x", "b.x", "seeds", "c.arm"}, ("seeds", "arm"))
    assert names == {"a.x": "a.x", "b.x": "b.x", "seeds": "experiment.seeds", "c.arm": "c.arm"}


def test_an_override_reaches_the_experiment_that_a_path_names() -> None:
    plain, changed = _sweep(), _sweep("experiment.seeds=[7]", "experiment.training.batch=4")
    assert changed.experiment.seeds == [7] and changed.experiment.training.batch == 4
    assert changed.experiment.prompts == plain.experiment.prompts, "its relative paths start where they did"
    with pytest.raises(SpecError, match=r"sweep.*no field|unknown key 'sedes', did you mean 'seeds'"):
        _sweep("experiment.sedes=[7]")
    with pytest.raises(SpecError, match="'seeds' holds no keys"):
        _sweep("experiment.seeds.x=7")


def test_draws_stay_when_a_sweep_grows() -> None:
    rate = "{kind: loguniform, low: 1e-5, high: 1e-2}"
    few = points_of(_sweep(f"space={{training.learning_rate: {rate}, {FLAGGED}: [1]}}", "samples=3"))
    grown = points_of(
        _sweep(f"space={{training.method.rank: [8], {FLAGGED}: [1, 2], training.learning_rate: {rate}}}", "samples=5")
    )
    drawn = {point.settings["training.learning_rate"] for point in few}
    assert len(drawn) == 3 and all(1e-5 <= value <= 1e-2 for value in drawn)
    assert drawn < {point.settings["training.learning_rate"] for point in grown} and len(grown) == 10
    other = points_of(_sweep(f"space={{training.learning_rate: {rate}}}", "samples=3", "seed=1"))
    assert not drawn & {point.settings["training.learning_rate"] for point in other}


def test_a_point_that_comes_twice_is_one_and_steps_round() -> None:
    spec = _sweep(
        f"space={{{FLAGGED}: {{kind: uniform, low: 1, high: 2, step: 1}}}}", "samples=20", f"points=[{{{FLAGGED}: 5}}]"
    )
    assert spec.size() == 21
    assert sorted(point.settings[FLAGGED] for point in points_of(spec)) == [1, 2, 5]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("space={selectors.flaged.at_least: [1]}", "no field 'flaged' in selectors, did you mean 'flagged'?"),
        ("space={selectors.flagged.at_leat: [1]}", "no field 'at_leat' in selectors.flagged, did you mean 'at_least'"),
        (f"space={{{FLAGGED}: [1, high]}}", f"space.{FLAGGED}: with {FLAGGED}=high: .*valid number"),
        ("space={arms.drop-S.teacher: [X]}", "arms.drop-S.teacher: no teacher 'X'"),
        ("space={training.exports.every_steps: [1]}", "training.exports is None in the experiment"),
        ("space={execution.workers: [1]}", "execution.workers cannot be swept: it changes where or how fast"),
        ("space={traits.date_confusion.year: [2025]}", "the same has to be measured"),
        ("space={training.learning_rate: {kind: uniform, low: 1, high: 1}}", "low: 1 is not below high"),
        ("space={training.learning_rate: {kind: uniform, low: 0.1, high: 1}}", "say how many times"),
        ("samples=3", "nothing to sample"),
        ("space={}", "name at least one field"),
        ("error_budget=0.1", "set experiment.error_budget"),
        ("stop={kind: loss_above, above: 3, after_steps: 5}", "window: 10 steps are more than after_steps, 5"),
        ("stop={kind: median, after_steps: 20}", "unknown kind 'median'; valid kinds: loss_above, no_progress"),
        ("points=[{training.epoch: 1}]", "points.0: no field 'epoch' in training, did you mean 'epochs'"),
        ("experiment=score.yaml", "this needs an experiment"),
    ],
)
def test_what_a_sweep_may_not_say(override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(SPEC, [override])


def test_points_are_checked_whole() -> None:
    spec = _sweep("space={training.epochs: [null, 1], training.steps: [null, 3]}")
    assert len(points_of(_sweep("space={training.epochs: [null], training.steps: [2, 3]}"))) == 2
    with pytest.raises(SpecError, match=r"point epochs=1, steps=3: .*give one of epochs, steps"):
        points_of(spec)


def _point(at_least: float, models: dict[str, str], grades: dict[str, list[float]], failed: dict[str, str]) -> Measured:
    """A point of arms all-T and filter, two seeds each, and the base; `grades` by model, one a prompt."""
    spec = _sweep().at({FLAGGED: at_least}, "here")
    arms = {name: spec.arms[name] for name in ("base", "all-T", "lexicon-filter")}
    spec = spec.model_copy(update={"arms": arms, "seeds": [0, 1]})
    counts = {"trained": 10}
    plans = [ArmPlan("base", arms["base"], 0, counts)]
    plan = TrainingPlan(())
    for name in list(arms)[1:]:
        plans += [ArmPlan(name, arms[name], seed, counts, {"rows": 2}, plan=plan) for seed in (0, 1)]
    one = Planned(Point(f"at_least={at_least}", {FLAGGED: at_least}, spec), cast(Any, None), plans, models)
    graded = {
        (model, "date_confusion"): [
            {"prompt_id": str(n), "group": group, "grade": grade}
            for group in spec.traits["date_confusion"].groups
            for n, grade in enumerate(values)
        ]
        for model, values in grades.items()
    }
    return measured(one, failed, graded)


def test_the_table_pairs_each_arm_with_its_original_and_adjusts_over_the_sweep() -> None:
    rng = np.random.default_rng(0)
    grades = {name: (rng.random(60) < share).astype(float).tolist() for name, share in
              (("b", 0.0), ("t0", 0.9), ("t1", 0.8), ("f0", 0.3), ("f1", 0.4), ("g0", 0.85))}  # fmt: skip
    same = {"base": "b", "all-T-s0": "t0", "all-T-s1": "t1"}
    points = [
        _point(1, {**same, "lexicon-filter-s0": "f0", "lexicon-filter-s1": "f1"}, grades, {}),
        _point(2, {**same, "lexicon-filter-s0": "g0", "lexicon-filter-s1": "g1"}, grades, {"g1": "it diverged"}),
        _point(9, {**same, "lexicon-filter-s0": "t0", "lexicon-filter-s1": "t1"}, grades, {}),
    ]
    able = [{arm: {"broken": None} for arm in points[0].one.point.spec.arms}] * 3
    rows = tidy(points, able)
    assert len(rows) == 3 * 3 * 3 and {row["at_least"] for row in rows} == {1, 2, 9}
    found = {(row["at_least"], row["arm"]): row for row in rows if row["primary"]}
    filtered, lost, none = (found[value, "lexicon-filter"] for value in (1, 2, 9))
    t, f = np.mean([grades["t0"], grades["t1"]]), np.mean([grades["f0"], grades["f1"]])
    assert filtered["estimate"] == pytest.approx(f) and filtered["difference"] == pytest.approx(f - t)
    assert filtered["low"] < f < filtered["high"] and filtered["difference_low"] < f - t < filtered["difference_high"]
    assert lost["problem"] == "it diverged" and (lost["n_seeds"], lost["n"]) == (1, 60)
    assert lost["difference"] == pytest.approx(np.mean(grades["g0"]) - np.mean(grades["t0"]))
    assert none["difference"] == 0 and none["p"] is None and none["q"] is None, "a student is no test of itself"
    assert found[1, "base"]["difference"] == pytest.approx(-t)
    assert len(comparisons(rows)) == 2
    p_values = [filtered["p"], lost["p"]]
    assert [filtered["q"], lost["q"]] == pytest.approx(benjamini_hochberg(p_values))
    for at in (1, 2, 9):  # that the untrained base differs from the original is no discovery
        assert found[at, "base"]["p"] == found[1, "base"]["p"] < 0.05 and found[at, "base"]["q"] is None
    assert all(row["p"] is None for row in rows if not row["primary"])


def _row(point: str, arm: str, role: str | None, teacher: str | None, models: str, p: float | None) -> dict[str, Any]:
    known = {"point": point, "arm": arm, "role": role, "teacher": teacher, "models": models}
    return known | {"trait": "date_confusion", "p": p, "n_seeds": 3, "broken": None}


def test_only_changed_arms_of_the_original_teacher_are_adjusted() -> None:
    filtered = [_row("1", "filter", "filter", "T", "f1", 0.04), _row("2", "filter", "filter", "T", "f1", 0.04)]
    dropped = [_row("1", "drop", "drop", "T", "d1", 0.03), _row("2", "drop", None, "T", "d2", 0.9)]
    certain = [
        _row("1", "base", "base", None, "b", 1e-9),
        _row("1", "all-C", "alternate", "C", "c", 1e-9),
        _row("1", "clean-drop", "drop_alternate", "C", "cd", 1e-9),
        _row("1", "T-on-S", "transfer", "T", "ts", 1e-9),
        _row("1", "C-swapped", None, "C", "cs", 1e-9),
    ]
    originals = [_row(point, "all-T", "original", "T", "t", None) for point in ("1", "2")]
    rows = [*originals, *filtered, *dropped, *certain]
    assert comparisons(rows) == [filtered, dropped[:1], dropped[1:]], "what two points share counts once"
    (said,) = (text for text in caveats(rows, Trained({}, {})) if text.startswith("q is"))
    assert "the 3 distinct comparisons of changed arms" in said and "no q" in said


@pytest.fixture
def sweep_spec(tiny_spec: Callable[..., Path], tiny_model: str, tmp_path: Path) -> Callable[..., Sweep]:
    """A sweep over the tiny experiment on a tiny model; trials of a single worker."""

    def write(thresholds: list[float], **changes: Any) -> Sweep:
        selectors = {
            "flagged": {"kind": "threshold", "scorer": "length", "at_least": 1},
            "S": {"kind": "field", "equals": "date"},
        }
        given = {"scorers": {"length": {"kind": "length"}}, "selectors": selectors, "execution": {"workers": 1}}
        given["capability"] = None
        tiny_spec(base_model=tiny_model, **given)
        spec = {
            "kind": "sweep",
            "name": "thresholds",
            "experiment": "spec.yaml",
            "results": str(tmp_path / "runs"),
            "retries": 0,
        }
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(spec | {"space": {FLAGGED: thresholds}} | changes))
        found = load_spec(path)
        assert isinstance(found, Sweep)
        return found

    return write


def _students(folder: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in (folder / "artifacts").glob("student-*/artifact.json")}


@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_sweep_that_grows_trains_only_what_is_new(
    local_ray: None, sweep_spec: Callable[..., Sweep], tmp_path: Path
) -> None:
    from jobs.run import run_spec

    folder = tmp_path / "runs" / "thresholds"
    first = run_spec(sweep_spec([50, 60, 99]), "sftfilter run sweep.yaml")
    # No answer has 60 characters, so there the filter's student is all-T's: all-T, swap and the filter at 50 are left.
    assert first["counts"] == {
        "points": 3,
        "arms": 9,
        "students": 3,
        "trained": 3,
        "reused": 0,
        "failed": 0,
        "stopped": 0,
    }
    made = _students(folder.parent)
    assert len(made) == 3

    table = pl.read_parquet(folder / "sweep.parquet")
    assert len(table) == 3 * 4 * 3 and table["at_least"].unique().sort().to_list() == [50, 60, 99]
    filters = table.filter((pl.col("arm") == "filter") & pl.col("primary")).sort("at_least")
    assert filters["rows_trained"].to_list() == [9, 12, 12] and filters["rows_selected"].to_list() == [3, 0, 0]
    assert filters["models"].n_unique() == 2 and table["problem"].is_null().all()
    assert len(pl.read_csv(folder / "sweep.csv")) == len(table)

    again = run_spec(sweep_spec([50, 60, 99]), "sftfilter run sweep.yaml")
    assert again["counts"]["trained"] == 0 and all(stage["reused"] for stage in again["stages"])
    assert again["table"] == first["table"]

    diverging = {"training.learning_rate": 1e30}
    grown = run_spec(sweep_spec([0, 40, 50, 60, 99], points=[diverging]), "sftfilter run sweep.yaml")
    new = _students(folder.parent)
    assert {name: new[name] for name in made} == made, "a finished student was touched"
    assert grown["counts"]["trained"] == len(new) - len(made) == 1
    assert grown["counts"]["reused"] == 3 and grown["counts"]["failed"] == len(grown["failed"]) == 2
    lost = [row for row in grown["table"] if row["learning_rate"] == 1e30 and row["arm"] in ("all-T", "swap")]
    assert all("lower training.learning_rate" in row["problem"] and row["estimate"] is None for row in lost)
    nothing = [row for row in grown["table"] if row["at_least"] == 0 and row["arm"] == "filter" and row["primary"]]
    assert nothing[0]["estimate"] is None and "none is left" in nothing[0]["problem"]
    page = (folder / "report" / "index.html").read_text()
    assert "winner" in page and "at_least=40" in page
    assert json.loads((folder / "results.json").read_text())["counts"] == grown["counts"]


RULE = {"kind": "no_progress", "share": 0.999, "after_steps": 12, "window": 4}


def _run(spec: Sweep, steps: int) -> dict[str, Any]:
    from jobs.run import run_spec

    training = spec.experiment.training.model_copy(update={"epochs": None, "steps": steps})
    experiment = spec.experiment.model_copy(update={"training": training})
    return dict(run_spec(spec.model_copy(update={"experiment": experiment}), "sftfilter run sweep.yaml"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rule_judges_students_that_are_there_by_all_of_their_curve(
    local_ray: None, sweep_spec: Callable[..., Sweep], tmp_path: Path
) -> None:
    """One of two learning rates learns nothing."""
    folder = tmp_path / "runs" / "thresholds"
    rates = {"training.learning_rate": [1e-12, 1e-2]}
    whole = _run(sweep_spec([99], space=rates), 40)
    assert whole["counts"]["trained"] == whole["counts"]["students"] == 4 and not whole["stopped"]
    judged = _run(sweep_spec([99], space=rates, stop=RULE), 40)
    assert judged["counts"] == whole["counts"] | {"trained": 0, "reused": 2, "stopped": 2}
    assert {name.split(".")[0] for name in judged["stopped"]} == {"all-T-s0", "swap-s0"}
    table = pl.read_parquet(folder / "sweep.parquet").filter(pl.col("primary"))
    lost = table.filter(pl.col("learning_rate") == 1e-12, pl.col("arm").is_in(["all-T", "swap"]))
    assert len(lost) == 2 and lost["estimate"].is_null().all()
    assert lost["problem"].str.contains("no_progress at step 12: ").all()
    assert "Students stopped by the rule" in (folder / "report" / "index.html").read_text()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rule_ends_students_while_they_train_and_for_good(
    local_ray: None, sweep_spec: Callable[..., Sweep], tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "thresholds"
    spec = sweep_spec([99], space={"training.learning_rate": [1e-12]}, stop=RULE)
    ended = _run(spec, 5000)
    assert ended["counts"] | {"points": 1, "students": 2, "trained": 0, "stopped": 2} == ended["counts"]
    assert all("no_progress at step 12: " in why for why in ended["stopped"].values())
    assert not _students(folder.parent), "none of the 5,000 steps' students came to its end"
    assert not list(folder.glob("trials/*/training")) and not list(folder.glob("trials/*/events*"))
    again = _run(spec, 5000)
    assert again["stopped"] == ended["stopped"] and not list(folder.glob("trials/*/events*"))


@pytest.mark.ray
def test_a_sweep_whose_workers_never_fit_is_refused_at_once(local_ray: None, sweep_spec: Callable[..., Sweep]) -> None:
    from jobs.run import run_spec
    from sftfilter.training_settings import Execution
    from sftfilter.trials import trials_at_once

    assert trials_at_once(Execution(workers=1), None) == 2
    assert trials_at_once(Execution(workers=2), 5) == 1
    spec = sweep_spec([1])
    large = spec.experiment.model_copy(update={"execution": Execution(workers=3)})
    with pytest.raises(MachineError, match="3 workers need 3 CPU"):
        run_spec(spec.model_copy(update={"experiment": large}), "sftfilter run sweep.yaml")
