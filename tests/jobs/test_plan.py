"""Plans: counts are a run's, schedules keep to what they must, and nothing heavy is loaded for one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from jobs.grade_table import GRADES
from jobs.kinds.experiment import Experiment
from jobs.kinds.job import JobSpec
from jobs.kinds.lattice import Lattice
from jobs.lattice_cells import parts_of, role_places
from jobs.plan.brief import brief
from jobs.plan.contrasts import power_of_design
from jobs.plan.costs import Costs, priced
from jobs.plan.counting import Counts, Reading
from jobs.plan.designs import Design, Guesses
from jobs.plan.items import Item, Sizes
from jobs.plan.pilot import read_pilot
from jobs.plan.plan import Plan, Stated, plan_spec
from jobs.plan.reuse import still_to_make
from jobs.plan.schedule import Piece, Stage, estimate
from jobs.plan.show import duration
from jobs.plan.sizes import sizes_of
from jobs.run_record import EVENTS
from jobs.spec import load_experiment, load_spec
from sftfilter.errors import DataError, SpecError
from sftfilter.stats import Variances, detectable_effect
from tests.conftest import REPOSITORY

SPECS = REPOSITORY / "jobs" / "specs"
COUNTS = (1, 2, 3, 8, 64, 512)


def _stages() -> list[Stage]:
    rows = Stage("rollouts", (Piece("T", 400, 5), Piece("C", 300, 100)), serial=10)
    students = tuple(Piece(f"s{n}", 30 + 7 * (n % 5), 8, 0.8) for n in range(23))
    return [Stage("start", serial=20), rows, Stage("training", students, serial=5, at_once=True)]


def test_one_worker_takes_the_sum() -> None:
    first = estimate(_stages(), COUNTS)[0]
    assert first.wall == pytest.approx(sum(s.serial + sum(p.seconds for p in s.pieces) for s in _stages()))
    assert sum(seconds for seconds, _ in first.parts) == pytest.approx(first.wall)


def test_more_workers_are_never_slower_nor_better_than_all_of_their_time() -> None:
    *found, limit = estimate(_stages(), COUNTS)
    walls = [one.wall for one in found]
    assert walls == sorted(walls, reverse=True)
    assert [one.workers for one in found] == list(COUNTS)
    assert all(one.wall >= limit.wall * (1 - 1e-9) for one in found)
    assert all(one.wall * (one.workers or 0) >= walls[0] * (1 - 1e-9) for one in found)


def test_a_list_schedule_that_is_worse_on_more_workers_is_not_taken() -> None:
    pieces = tuple(Piece(str(n), seconds) for n, seconds in enumerate((7, 7, 6, 6, 5, 5, 4, 4, 4)))
    *found, _ = estimate([Stage("training", pieces, at_once=True)], range(1, 12))
    assert [one.wall for one in found] == sorted((one.wall for one in found), reverse=True)
    assert found[3].wall == 15  # Graham's example: 12 would be best, the longest first give 15


def test_the_limit_is_the_serial_part_and_the_longest_piece() -> None:
    limit = estimate(_stages(), COUNTS)[-1]
    longest = max(piece.on(8) for piece in _stages()[-1].pieces)
    assert limit.wall == pytest.approx(20 + 10 + 400 / 5 + 300 / 100 + 5 + longest)
    only = estimate([Stage("start", serial=20), Stage("training", [Piece("s", 0.0)], serial=5)], COUNTS)
    assert {one.wall for one in only} == {25}


def test_a_student_on_more_workers_keeps_a_share_of_their_speed_and_no_more_than_it_can_use() -> None:
    student = Piece("s", 100, most=4, keeps=0.8)
    assert (student.on(1), student.on(2), student.on(4)) == (100, 100 / 1.6, pytest.approx(100 / 2.56))
    assert student.on(512) == student.on(4)


def test_shared_storage_and_the_head_bound_a_stage() -> None:
    stage = Stage("training", [Piece(f"s{n}", 10) for n in range(64)], at_once=True, floors={"shared storage": 40})
    one, many, _ = estimate([stage], (1, 64))
    assert (one.wall, many.wall) == (640, 40)
    assert one.parts[0][1] == "training: work" and many.parts[0][1] == "training: shared storage"


def _sizes(spec: str | Path, *overrides: str) -> Sizes:
    return sizes_of(load_spec(SPECS / spec, overrides), Counts({}), 4)


def _count(sizes: Sizes, kind: Any, stage: str | None = None) -> int:
    return sum(item.count for item in sizes.of_kind(kind, stage))


def test_the_quickstart_makes_what_its_readme_says() -> None:
    sizes = _sizes("quickstart.yaml")
    assert [(i.of, i.count) for i in sizes.of_kind("rollouts", "rollouts")] == [("T", 320), ("C", 320)]
    assert [i.count for i in sizes.of_kind("rollouts", "tuning")] == [68]  # both teachers share the base's answers
    assert [(i.told_as, i.count) for i in sizes.of_kind("scores")] == [("lexicon on T", 320)]
    assert len(sizes.of_kind("student", "tuning")) == 2 and len(sizes.of_kind("student", "training")) == 10
    students = {item.of: item for item in sizes.of_kind("student")}
    assert students["drop-S-s0"].count == 272 and students["drop-S-s0"].sure  # 270 rows, the last step padded
    assert students["random-drop-s0"].count == 272
    assert students["lexicon-filter-s0"].count == 320 and not students["lexicon-filter-s0"].sure
    assert sizes.heldout == {"date_confusion": {"trait": 60, "adjacent": 30, "control": 30}}
    assert len(sizes.of_kind("answers")) == 13 and _count(sizes, "answers") == 13 * (120 + 40)


def test_arms_that_are_equal_whatever_the_data_are_one_student() -> None:
    twice = "arms.again={teacher: T, intervention: {kind: drop_prompt, subset: S2}}"
    sizes = _sizes("quickstart.yaml", twice, "selectors.S2={kind: field, field: kind, equals: date}")
    assert len(sizes.of_kind("student", "training")) == 10
    other = _sizes("quickstart.yaml", twice, "selectors.S2={kind: field, field: kind, equals: adjacent}")
    assert len(other.of_kind("student", "training")) == 11


def test_seeds_multiply_students_and_not_rollouts() -> None:
    sizes = _sizes("quickstart-full.yaml")
    assert len(sizes.of_kind("student", "training")) == 36 and _count(sizes, "rollouts", "rollouts") == 640


def test_a_sweep_makes_equal_students_and_scores_once_and_asks_no_teacher() -> None:
    sizes = _sizes("sweep.yaml")
    # Eight arms do not depend on what is swept; flagged rows in S come with 3 thresholds, the filter with 9 settings.
    assert len(sizes.of_kind("student", "training")) == 8 + 3 + 9
    assert _count(sizes, "scores") == 320 and len(sizes.of_kind("answers")) == 1 + 20
    assert sizes.at_once


def test_a_lattice_asks_each_teacher_once_for_each_set_of_prompts_at_its_own_base() -> None:
    whole = (
        "bases={one: smollm2-135m-instruct, two: /models/two}",
        "original={base: one, prompts: mixed, teacher: T}",
        "alternate={base: two, prompts: neutral, teacher: C}",
        "interpolate=null",
    )
    sizes = _sizes("lattice.yaml", *whole)
    assert len(sizes.of_kind("student", "tuning")) == 2 and len(sizes.of_kind("student", "training")) == 8
    assert _count(sizes, "rollouts", "rollouts") == 2 * (320 + 68)
    assert len(sizes.of_kind("answers")) == 2 + 8 and sizes.at_once


def test_drawn_values_of_a_sweep_are_stood_in_for() -> None:
    drawn = "space={training.learning_rate: {kind: loguniform, low: 1e-4, high: 1e-2}}"
    sizes = _sizes("sweep.yaml", drawn, "samples=3")
    assert len(sizes.of_kind("student", "training")) == 30
    assert any("training.learning_rate are drawn" in note for note in sizes.notes)


def test_other_kinds() -> None:
    calibration = _sizes("calibration.yaml")
    assert _count(calibration, "scores") == 10 * 640 and len(calibration.of_kind("student", "training")) == 6
    assert not _sizes("calibration.yaml", "retrain=null").of_kind("answers")
    assert _count(_sizes("generate.yaml"), "rollouts") == 240
    assert len(_sizes("train.yaml").of_kind("student")) == 2
    assert len(_sizes("score.yaml").of_kind("scores")) == 6
    with pytest.raises(SpecError, match=r"kind decide .* that do: experiment"):
        _sizes("decide.yaml")


def test_training_budgets() -> None:
    steps = _sizes("train.yaml", "training={steps: 7, batch: 4}").of_kind("student")
    assert {item.count for item in steps} == {28}
    assert {item.exports for item in _sizes("train.yaml", "training={steps: 9, exports: {every_steps: 2}}").items} == {
        4
    }


def test_rows_elsewhere_have_to_be_stated(tmp_path: Path) -> None:
    data = yaml.safe_load((SPECS / "quickstart.yaml").read_text()) | {"results": str(tmp_path)}
    data["prompts"] = {"kind": "files", "path": "s3://bucket/prompts-*.parquet"}
    for teacher in data["teachers"].values():
        teacher |= {key: str(SPECS / teacher[key]) for key in ("answers", "neutral")}
    data["traits"]["date_confusion"]["prompts"]["path"] = str(SPECS / "prompts/heldout.jsonl")
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(SpecError, match="--rows prompts=NUMBER"):
        sizes_of(load_spec(path), Counts({}), 4)
    assert _count(sizes_of(load_spec(path), Counts({"prompts": 5000}), 4), "scores") == 5000
    with pytest.raises(SpecError, match="did you mean 'prompts'"):
        sizes_of(load_spec(path), Counts({"prompts": 5000, "prompt": 1}), 4)


def _event(second: float, event: str, **fields: Any) -> dict[str, Any]:
    time = f"2026-01-01T00:{int(second) // 60:02d}:{int(second) % 60:02d}+00:00"
    return {"time": time, "run": "r", "event": event} | fields


def _made(second: float, stage: str, artifact: str, of: str, **counts: float) -> dict[str, Any]:
    told = {"stage": stage, "artifact": artifact, "of": of, "key": of, "reused": False}
    return _event(second, "artifact", **told, counts=counts)


def _record(root: Path, name: str, events: Sequence[dict[str, Any]], spec_hash: str = "h") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    about = {"name": name, "kind": "experiment", "spec_hash": spec_hash}
    lines = [json.dumps(event) for event in [_event(0, "run", **about), *events]]
    (folder / EVENTS).write_text("\n".join([*lines, '{"time": "2026-01-01T0']))  # cut off by a kill
    for event in events:
        if event.get("artifact") == "student":
            made = root / "artifacts" / f"student-{event['key']}"
            made.mkdir(parents=True)
            (made / "artifact.json").write_text(json.dumps({"settings": {"batch": 8}}))
            (made / "weights").write_bytes(b"0" * 2**20)
    return folder


def test_costs_are_read_from_a_record(tmp_path: Path) -> None:
    events = [
        _event(12, "stage", stage="prompts"),
        _event(15, "stage_done", stage="prompts", seconds=3, done=True),
        _event(15, "stage", stage="rollouts"),
        _made(25, "rollouts", "rollouts", "T", used=100, cut_at_max_new_tokens=3),
        _made(26, "rollouts", "rollouts", "from a file", used=100, unanswered=0),
        _event(30, "stage", stage="scores"),
        _made(50, "scores", "scores", "probe on T", rows=100, scored_before=50, seconds=20.0, scoring_seconds=5.0),
        _event(50, "stage", stage="decisions"),
        _event(52, "stage_done", stage="decisions", seconds=2, done=True),
        _event(52, "stage", stage="training"),
        _made(82, "training", "student", "all-T-s0", seconds=16.0, steps=4),
        _made(82, "training", "student", "all-C-s0", seconds=8.0, steps=2),
        _event(82, "stage", stage="evaluation"),
        _made(102, "evaluation", "answers", "all-T-s0 on t", rows=10),
        _made(107, "evaluation", "answers", "all-C-s0 on t", rows=10),
        _event(110, "end", status="finished"),
    ]
    found = priced(_record(tmp_path, "pilot", events), None, ())
    costs = found.costs
    assert costs.rollout_s == {"T": 0.1, "any": 0.1}
    assert costs.score_s == {"probe": 0.1} and costs.score_setup_s == {"probe": 15.0}
    assert costs.train_row_s == {"student": 0.5, "any": 0.5} and costs.train_setup_s == 6
    assert (costs.answer_s, costs.serve_setup_s) == (0.5, 15)
    assert (costs.start_s, costs.head_s, costs.decide_s) == (12, 3, 1)
    assert costs.checkpoint_gib == pytest.approx(2**-10, rel=0.01)
    assert all(source.startswith("measured: ") for source in found.told.values())
    changed = priced(tmp_path / "pilot", None, ["train_row_s.student=2", "rollout_s=3"])
    assert changed.costs.train_row_s == {"student": 2, "any": 0.5} and changed.costs.rollout_s == {"any": 3}
    assert "stated" in changed.told["train_row_s"] and changed.costs.answer_s == 0.5


def test_wrong_costs_name_the_field_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--cost: unknown key 'answers', did you mean 'answer_s'"):
        priced(None, None, ["answers=1"])
    file = tmp_path / "costs.yaml"
    file.write_text("storage_gib_s: 0\n")
    with pytest.raises(SpecError, match=rf"{file}: storage_gib_s: .*greater than 0"):
        priced(None, file, ())
    with pytest.raises(DataError, match="no record of a run"):
        priced(tmp_path / "nope", None, ())


def test_the_example_states_every_cost() -> None:
    file = REPOSITORY / "jobs" / "examples" / "costs.yaml"
    assert set(yaml.safe_load(file.read_text())) == set(Costs.model_fields)
    assert priced(None, file, ()).costs.device == "GPU"


def _planned(root: Path, *overrides: str, **stated: Any) -> Plan:
    spec = load_spec(SPECS / "quickstart.yaml", [f"results={root}", *overrides])
    return plan_spec(spec, root, Stated(file=REPOSITORY / "jobs" / "examples" / "costs.yaml", **stated))


def test_what_the_same_spec_has_made_is_not_planned_again(tmp_path: Path) -> None:
    before = _planned(tmp_path)
    events = [
        _made(1, "training", "student", "all-T-s0", seconds=1.0, steps=40),
        _made(2, "rollouts", "rollouts", "T", used=320),
    ]
    _record(tmp_path, "quickstart", events, before.spec_hash)
    plan = _planned(tmp_path)
    there = {(line.what, line.of.split()[0]): line.there for line in plan.made}
    assert there["students trained", "≤"] == 1
    assert there["rollouts", "T"] == 0  # recorded, but deleted since
    assert plan.estimates[0].wall == pytest.approx(before.estimates[0].wall - 320 * 0.01)
    assert _planned(tmp_path, "training.learning_rate=1e-3").estimates[0].wall == before.estimates[0].wall


def test_what_points_of_a_sweep_call_alike_is_there_as_often_as_it_was_made() -> None:
    items = [Item("rollouts", "rollouts", "T", 10, key, "T") for key in ("cold", "warm")]
    assert still_to_make(items, {("rollouts", "T"): {"a"}}, []) == items[1:]
    assert still_to_make(items, {("rollouts", "T"): {"a", "b"}}, []) == []
    asked = [Item("evaluation", "answers", "s", 10, "k", "s")]
    half = {("answers", "s on t"): {"a"}}
    assert still_to_make(asked, half, ["t", "u"]) == asked and still_to_make(asked, half, ["t"]) == []


def test_what_has_no_cost_is_said_and_is_in_no_sum(tmp_path: Path) -> None:
    spec = load_spec(SPECS / "quickstart.yaml", [f"results={tmp_path}"])
    plan = plan_spec(spec, tmp_path, Stated(costs=["answer_s=1"]))
    assert plan.estimates[0].wall == 2080
    assert any("--cost train_row_s.student=SECONDS" in line for line in plan.costed.unknown)
    nothing = plan_spec(spec, tmp_path, Stated())
    assert not nothing.estimates and any("--from runs/NAME" in note for note in nothing.notes)
    assert not list(tmp_path.iterdir())


def test_students_one_by_one_are_told_from_those_side_by_side(tmp_path: Path) -> None:
    plan = _planned(tmp_path, costs=["train_row_s=1"])
    assert plan.estimates[-1].parts[0][1] == "training: one by one"
    assert any("as the trials of a sweep" in note for note in plan.notes)


def _design(spec: JobSpec) -> Design:
    design = Design.of(spec)
    assert design is not None
    return design


def _pilot(folder: Path, spec: Experiment | Lattice, rates: dict[str, float], seeds: int, samples: int = 1) -> Path:
    """A finished run whose prompts and seeds do not matter: every grade is drawn for itself."""
    rng = np.random.default_rng(5)
    told: Any = spec.model_dump(mode="json") | {"seeds": list(range(seeds))}
    told["traits"]["date_confusion"] |= {"samples": samples, "temperature": float(samples > 1)}
    if isinstance(spec, Lattice):
        parts = parts_of(spec)
        arms = [arm for part in parts for arm in part.spec.arms]
        results = {"roles": {role: arm for role, (_, arm) in role_places(spec, parts).items()}}
    else:
        arms, results = list(spec.arms), {}
    rows = [
        (arm, seed, "m", "date_confusion", group, f"p{n:03d}", rng.binomial(samples, rates.get(arm, 0.5)) / samples)
        for n in range(400)
        for group in ("trait", "control")
        for arm in arms
        for seed in range(seeds)
    ]
    names = ("arm", "seed", "model_hash", "trait", "group", "prompt_id", "grade")
    folder.mkdir(parents=True)
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(folder / GRADES)
    (folder / "results.json").write_text(json.dumps(results | {"kind": told["kind"], "spec": told}))
    return folder


def test_power_follows_from_a_pilot_where_there_is_one(tmp_path: Path) -> None:
    spec = load_experiment(SPECS / "quickstart-full.yaml")
    pilot = _pilot(tmp_path / "pilot", spec, {"all-T": 0.8, "all-C": 0.0}, 3)
    assert read_pilot(pilot).cells["original"].shape == (400, 3)
    power = power_of_design(_design(spec), {"date_confusion": {"trait": 60}}, pilot, Guesses(), ())
    assert power and {one.source for one in power.contrasts} == {"pilot"}
    gap = next(one for one in power.contrasts if one.name == "gap")
    # 0.16 is the variance of a grade of 0.8, here of neither prompts nor seeds; the constant arm adds none.
    assert gap.detectable == pytest.approx(detectable_effect(Variances(0.0, 0.0, 0.16), 60, 3), rel=0.15)
    assert not read_pilot(tmp_path)


def test_power_of_a_pilot_with_one_seed_guesses_the_seeds(tmp_path: Path) -> None:
    spec = load_experiment(SPECS / "quickstart.yaml")
    pilot = _pilot(tmp_path / "pilot", spec, {"all-T": 0.8, "all-C": 0.0}, 1)
    power = power_of_design(_design(spec), {"date_confusion": {"trait": 60}}, pilot, Guesses(), ["0.2", "R_drop=0.4"])
    assert power and {one.source for one in power.contrasts} == {"pilot, guess"}
    assert {one.effect for one in power.contrasts if one.name != "R_drop"} == {0.2}
    assert any("one seed" in line for line in power.assumptions)


def test_power_from_guesses_grows_with_what_is_asked_and_seeds_bound_it() -> None:
    spec = load_experiment(SPECS / "quickstart-full.yaml")

    def of(prompts: int, **guesses: Any) -> dict[str, Any]:
        power = power_of_design(_design(spec), {"date_confusion": {"trait": prompts}}, None, Guesses(**guesses), ())
        assert power and all(one.source == "guess" for one in power.contrasts)
        return {one.name: one for one in power.contrasts}

    few, many = of(30), of(300)
    assert all(many[name].detectable < few[name].detectable for name in few)
    assert few["R_drop_minus_R_swap"].effect == 0.25 and few["gap"].effect == 0.3
    assert of(60, seed_sd=0.2)["R_drop"].prompts is None
    assert of(60, pairing=0.9)["gap"].detectable < of(60)["gap"].detectable
    with pytest.raises(SpecError, match="did you mean 'R_drop'"):
        power_of_design(_design(spec), {"date_confusion": {"trait": 60}}, None, Guesses(), ["R_dro=0.1"])
    assert power_of_design(_design(spec), {"date_confusion": {"trait": 1}}, None, Guesses(), ()) is None


MODES = ("drop", "swap", "converse_drop", "converse_swap")


def test_a_lattice_has_a_contrast_for_each_cell_and_each_changed_share(tmp_path: Path) -> None:
    spec = load_spec(SPECS / "lattice-full.yaml")
    assert isinstance(spec, Lattice)
    heldout = {"date_confusion": {"trait": 60}}
    power = power_of_design(_design(spec), heldout, None, Guesses(), ())
    assert power
    found = {one.name: one for one in power.contrasts}
    assert [name for name in found if name.startswith("original")] == [
        "original - small.mixed.C",
        "original - small.neutral.T",
        "original - small.neutral.C",
    ]
    changed = [f"random - {mode}-{share}" for mode in MODES for share in (50, 100)]
    assert [name for name in found if name.startswith("random")] == changed
    assert {"R_swap", "R_drop", "R_random_drop", "R_matched_swap", "R_transfer"} <= found.keys()
    # Half of the way from 0.7 to 0.1 against half of it from 0.7 to 0.6: the variances of 0.4 and 0.65.
    half = Variances(*(share * (0.24 + 0.2275) for share in (0.5, 0.01, 0.49)))
    assert found["random - swap-50"].detectable == pytest.approx(detectable_effect(half, 60, 3))
    pilot = _pilot(tmp_path / "pilot", spec, {"small.mixed.T": 0.8, "small.mixed.C": 0.0, "swap-50": 0.1}, 3)
    power = power_of_design(_design(spec), heldout, pilot, Guesses(), ["original - small.neutral.T=0.1"])
    assert power and {one.source for one in power.contrasts} == {"pilot"}
    found = {one.name: one for one in power.contrasts}
    expected = detectable_effect(Variances(0.0, 0.0, 0.09 + 0.25), 60, 3)
    assert found["random - swap-50"].detectable == pytest.approx(expected, rel=0.15)
    assert found["original - small.neutral.T"].effect == 0.1


def test_samples_help_where_they_are_drawn_and_only_down_to_the_rest(tmp_path: Path) -> None:
    def of(*overrides: str, pilot: Any = None, **guesses: Any) -> dict[str, Any]:
        spec = load_experiment(SPECS / "quickstart-full.yaml", [f"traits.date_confusion.{one}" for one in overrides])
        heldout = {"date_confusion": {"trait": 60}}
        power = power_of_design(_design(spec), heldout, pilot, Guesses(**guesses), ["0.22"])
        assert power
        return {one.name: one for one in power.contrasts}

    cold, warm, four = of("samples=4"), of("temperature=1"), of("temperature=1", "samples=4")
    assert cold["gap"] == of()["gap"] and cold["R_drop_row"].samples is None
    assert warm["gap"].detectable == pytest.approx(cold["gap"].detectable)  # the same variance, split otherwise
    assert four["gap"].detectable < warm["gap"].detectable
    free: dict[str, Any] = {"sample_share": 0.9, "prompt_share": 0.3, "seed_sd": 0.02}
    least = of("temperature=1", **free)["R_filter"].samples
    assert least > 1 and of("temperature=1", f"samples={least}", **free)["R_filter"].detectable <= 0.22
    assert of("temperature=1", f"samples={least - 1}", **free)["R_filter"].detectable > 0.22
    assert of("temperature=1", **{**free, "sample_share": 0})["R_filter"].samples is None
    # A pilot with samples tells them apart: here nothing but they differ, so they can stand in for prompts.
    spec = load_experiment(SPECS / "quickstart-full.yaml")
    pilot = _pilot(tmp_path / "pilot", spec, {"all-T": 0.8, "all-C": 0.0}, 3, samples=8)
    found = of("temperature=1", pilot=pilot)["gap"]
    assert found.source == "pilot"
    assert found.detectable == pytest.approx(detectable_effect(Variances(0, 0, 0, 0.16), 60, 3), rel=0.15)


def test_the_command_prints_tables_within_80_columns_and_json(tmp_path: Path) -> None:
    given = ["plan", str(SPECS / "quickstart.yaml"), "--set", f"results={tmp_path}"]
    given += ["--costs", str(REPOSITORY / "jobs" / "examples" / "costs.yaml")]
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0, shown.output
    assert max(len(line.rstrip()) for line in shown.output.splitlines() if str(REPOSITORY) not in line) <= 80
    assert "…" not in shown.output and "R_drop_minus_R_swap" in shown.output and "limit" in shown.output
    told = json.loads(CliRunner().invoke(app, [*given, "--json", "--workers", "4"]).output)
    assert [one["workers"] for one in told["workers"]] == [1, 4, None]
    assert told["power"]["prompts"] == 60 and told["made"][0]["number"] == 68
    wrong = CliRunner().invoke(app, ["plan", str(SPECS / "decide.yaml")])
    assert wrong.exit_code == SpecError.exit_code


def test_before_a_run_its_students_and_cost_are_told_with_their_source(tmp_path: Path) -> None:
    spec = load_spec(SPECS / "lattice.yaml", [f"results={tmp_path}"])
    made, time, source = brief(spec, tmp_path)
    assert made.startswith("plan: at most 14 students to train, 136 k tokens of training")
    assert "not known" in time and "is no recorded run" in source and "--costs FILE" in source
    _record(tmp_path, "lattice", [_made(16, "training", "student", "one-s0", seconds=16.0, steps=4)])
    made, time, source = brief(spec, tmp_path)
    whole = plan_spec(spec, tmp_path, Stated())
    assert f"{duration(whole.estimates[0].wall)} on one worker of {os.cpu_count()} cores, of what has a cost" in time
    assert "guessed: storage_gib_s" in source and "not costed: teachers: 68 rollouts" in source
    assert brief(load_spec(SPECS / "score.yaml"), tmp_path) == []


def test_a_run_does_not_wait_for_its_short_plan(tmp_path: Path) -> None:
    large = load_spec(SPECS / "sweep.yaml", ["space={selectors.flagged.at_least: [1, 2, 3], seeds: [[1], [2]]}"])
    assert len(brief(large, tmp_path)) == 3
    many = str([n / 100 for n in range(50)])
    (line,) = brief(load_spec(SPECS / "sweep.yaml", [f"space={{selectors.flagged.at_least: {many}}}"]), tmp_path)
    assert "50 points over selectors.flagged.at_least" in line
    with pytest.raises(SpecError, match="prompts: its rows take longer than 0 s to count"):
        sizes_of(load_spec(SPECS / "quickstart.yaml"), Counts({}, Reading(seconds=0)), 4)


def test_run_with_plan_starts_nothing(tmp_path: Path) -> None:
    given = [str(SPECS / "lattice.yaml"), "--set", f"results={tmp_path}"]
    shown = CliRunner().invoke(app, ["run", *given, "--plan"])
    assert shown.exit_code == 0, shown.output
    assert shown.output == CliRunner().invoke(app, ["plan", *given]).output
    assert not list(tmp_path.iterdir())


def test_a_plan_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from jobs.cli import app; app(['plan', 'jobs/specs/quickstart.yaml'], standalone_mode=False);"
        "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_durations() -> None:
    shown = [duration(seconds) for seconds in (0.0042, 48, 750, 12_240, 200_000)]
    assert shown == ["0.0042 s", "48 s", "12.5 min", "3.4 h", "2.3 days"]


def test_items_that_are_equal_are_made_once() -> None:
    sizes = Sizes()
    item = Item("scores", "scores", "lexicon", 10, "k", "lexicon on T")
    sizes.add([item, item])
    sizes.add([item])
    assert sizes.items == [item]
