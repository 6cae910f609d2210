"""Lattices: cells compiled to few trainings, cells that cannot be, nested fractions, tables and readings."""

from __future__ import annotations

import html
import io
import itertools
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import yaml
from rich.console import Console

from jobs.arms import ArmPlan
from jobs.console import Stages
from jobs.foresight import foresee
from jobs.kinds.generate import Generate
from jobs.kinds.lattice import Corner, Lattice
from jobs.lattice_cells import UNTRAINED, Part, answering, cell_name, cell_role, cells_of, list_lattice, parts_of
from jobs.lattice_curves import shares_of
from jobs.lattice_files import impossible
from jobs.lattice_outcome import show_lattice, tables_of
from jobs.lattice_readings import judge_lattice, role_cells
from jobs.lattice_table import dilution
from jobs.spec import load_spec
from jobs.sweep_outcome import write_tidy
from jobs.sweep_points import Point
from jobs.sweep_students import Planned
from jobs.sweep_table import Measured
from sftfilter.errors import SpecError
from sftfilter.report.lattice import write_lattice_page
from sftfilter.report.lattice_plots import cells_plot
from sftfilter.score_frame import score_frame
from sftfilter.selectors import Selector, select
from sftfilter.selectors.controls import LengthMatchedRandom
from sftfilter.training_plan import TrainingPlan
from tests.conftest import REPOSITORY, read_lines, write_lines

SPEC = REPOSITORY / "jobs" / "specs" / "lattice.yaml"
WHOLE = (
    "bases={one: smollm2-135m-instruct, two: /models/two}",
    "original={base: one, prompts: mixed, teacher: T}",
    "alternate={base: two, prompts: neutral, teacher: C}",
)
Write = Callable[..., Path]


def _lattice(*overrides: str) -> Lattice:
    spec = load_spec(SPEC, overrides)
    assert isinstance(spec, Lattice)
    return spec


@pytest.fixture
def file_spec(tmp_path: Path) -> Write:
    """A lattice of two bases, whose teachers are files with answers to the first prompts only."""

    def write(**changes: Any) -> Path:
        rows = read_lines("teacher_doubt.jsonl", 12)
        for name, part in (("first", rows[:6]), ("second", rows[6:])):
            write_lines(tmp_path / f"{name}.jsonl", [{"prompt": r["prompt"], "kind": r["kind"]} for r in part])
        write_lines(tmp_path / "T.jsonl", rows)
        write_lines(tmp_path / "C.jsonl", read_lines("teacher_accept.jsonl", 6))
        write_lines(tmp_path / "heldout.jsonl", read_lines("heldout.jsonl", 4))
        spec = yaml.safe_load(SPEC.read_text()) | {
            "bases": {"one": "smollm2-135m-instruct", "two": "someone/two"},
            "prompts": {name: {"kind": "jsonl", "path": f"{name}.jsonl"} for name in ("first", "second")},
            "teachers": {name: {"kind": "rollouts", "path": f"{name}.jsonl"} for name in "TC"},
            "original": {"base": "one", "prompts": "first", "teacher": "T"},
            "alternate": {"base": "two", "prompts": "second", "teacher": "C"},
        }
        spec["traits"]["date_confusion"]["prompts"]["path"] = "heldout.jsonl"
        path = tmp_path / "lattice.yaml"
        path.write_text(yaml.safe_dump(spec | changes))
        return path

    return write


def test_cells_are_compiled_to_an_experiment_for_each_base_and_prompts() -> None:
    spec = _lattice(*WHOLE, "interpolate=null")
    parts = parts_of(spec)
    assert [(part.base, part.prompts) for part in parts] == [
        ("one", "mixed"), ("one", "neutral"), ("two", "mixed"), ("two", "neutral"),
    ]  # fmt: skip
    assert len(cells_of(spec)) == 8 and all(len(part.cells) == 2 for part in parts)
    first, last = parts[0].spec, parts[-1].spec
    assert (last.base_model, last.prompts) == ("/models/two", spec.prompts["neutral"])
    assert list(first.arms) == [UNTRAINED, "one.mixed.T", "one.mixed.C"] and not first.selectors
    assert first.roles.named() == {"original": "one.mixed.T", "alternate": "one.mixed.C", "base": UNTRAINED}
    assert (first.traits, first.seeds, first.gates) == (spec.traits, spec.seeds, spec.gates)
    roles = {cell_name(cell): cell_role(spec, cell) for cell in cells_of(spec)}
    assert roles == {
        "one.mixed.T": "original",
        "one.mixed.C": "alternate",
        "one.neutral.T": "alternate_prompts",
        "one.neutral.C": "alternate_sft",
        "two.mixed.T": "alternate_base",
        "two.mixed.C": "alternate_base_clean",
        "two.neutral.T": "alternate_base_prompts",
        "two.neutral.C": "pipeline",
    }
    assert "8 cells of base (2) x prompts (2) x teacher (2), 8 arms, 8 students" in spec.summary()


def test_only_wanted_cells_are_trained_and_only_their_teachers_asked() -> None:
    few = "cells=[{prompts: mixed, base: one}, {base: two, prompts: [neutral], teacher: T}]"
    parts = parts_of(_lattice(*WHOLE, few, "interpolate=null"))
    assert [list(part.cells) for part in parts] == [["one.mixed.T", "one.mixed.C"], ["two.neutral.T"]]
    assert list(parts[1].spec.teachers) == ["T"]
    assert parts[1].spec.roles.original == parts[1].spec.roles.alternate == "two.neutral.T"


def test_a_teacher_is_tuned_from_one_base_whoever_is_trained() -> None:
    spec = _lattice(*WHOLE, "tuned_from={C: two}")
    assert (spec.home("T"), spec.home("C")) == ("one", "two")
    study = answering(spec, "two", "mixed", ["C"])
    assert (study.base_model, list(study.teachers), study.traits) == ("/models/two", ["C"], spec.traits)


def test_equal_trainings_are_one() -> None:
    spec = _lattice()
    found = list_lattice(spec)
    assert len(found.cells) == 4 and len(found.arms) == len(found.trainings) == 4 + 8 + 2
    twice = _lattice("prompts.again={kind: jsonl, path: prompts/train.jsonl}", "bases.same=smollm2-135m-instruct")
    found = list_lattice(twice)
    assert len(found.cells) == 12 and len(found.arms) == 12 + 8 + 2
    assert len(found.trainings) == 4 + 8 + 2, "another name for the same prompts or base is no other student"
    shared = next(
        one for one in found.trainings if (one.teacher, one.intervention, one.prompts) == ("T", None, "mixed")
    )
    assert {arm for _, arm in shared.arms} == {
        f"{base}.{p}.T" for base in ("small", "same") for p in ("mixed", "again")
    }
    assert len({one.key for one in list_lattice(_lattice("tuned_from={T: small}")).trainings} & {
        one.key for one in list_lattice(spec).trainings}) == 14  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["original.teacher=X"], "original.teacher: no teacher 'X'"),
        (["alternate={base: small, prompts: mixed, teacher: T}"], "it is the original cell"),
        (["cells=[{prompts: neutral}]"], "the original cell is not among them"),
        (["cells=[{prompt: neutral}]"], "unknown key 'prompt', did you mean 'prompts'"),
        (["cells=[{teacher: T}]"], r"read against cell \{base: small, prompts: mixed, teacher: C\}; add it"),
        (["cells=[{teacher: [T, D]}]"], "cells.0.teacher: no teacher 'D'"),
        (["interpolate.subset=R"], "interpolate.subset: no selector 'R'"),
        (["interpolate.fractions=[0.5, 0.5]"], "a value is listed twice"),
        (["interpolate.fractions=[1.5]"], "less than or equal to 1"),
        (["interpolate.modes=[neutralise]"], "give both or neither"),
        (["interpolate.modes=[swop]"], "'drop', 'swap'"),
        (["selectors.random as S={kind: field, equals: date}"], "the interpolation needs this name"),
        (["probes.p={role: shown, intervention: {kind: drop_row, subset: R}}"], "no selector 'R'"),
        (["probes.p={role: shown, base: b, intervention: {kind: drop_row, subset: S}}"], "no base 'b'"),
        (["probes.p={role: reseeded_shown, intervention: {kind: drop_row, subset: S}}"], "needs `reseeded`"),
        (["probes.p={role: settled, intervention: {kind: backfill, subset: S, with_teacher: C}}"], "of `reserve`: name some"),
        (["probes.p={role: matched_drop, intervention: {kind: drop_prompt, subset: S}}"], "is that of arm 'drop-100-matched'"),
        (["reseeded=small"], "a base of the two pipelines"),
        (["earlier=none"], "earlier: no base 'none'"),
        (["bases.b=/b", "earlier=b", "cells=[{base: small}]"], r"earlier is read by cell \{base: b, prompts: mixed, teacher: T\}"),
        (["bases.b=/b", "reseeded=b", "cells=[{base: small}, {base: b, teacher: T}]"], r"reseeded is read by cell .*teacher: C\}"),
        (["tuned_from={T: other}"], "no base 'other', so cells small.mixed.T, small.neutral.T cannot be made; .*--set bases"),
        (["teachers.D={kind: rollouts, path: d.jsonl}", "tuned_from={D: small}"], "'D' is of kind rollouts, not tuned"),
    ],
)  # fmt: skip
def test_what_a_lattice_may_not_say(overrides: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(SPEC, overrides)


def test_cells_that_cannot_be_made_are_named_with_what_fills_them(file_spec: Write, tmp_path: Path) -> None:
    path = file_spec()
    spec = load_spec(path)
    assert isinstance(spec, Lattice)
    (missing,) = impossible(spec)
    assert missing.at == ("teachers", "C")
    assert missing.cells == ["one.second.C", "two.second.C"]
    assert "answer none of prompts 'second', so cells one.second.C, two.second.C cannot be made" in str(missing)
    assert "sftfilter run jobs/specs/generate.yaml --set name=lattice-C-second" in missing.command
    assert str(tmp_path / "second.jsonl") in missing.command
    stops, _ = foresee(str(path), spec)
    assert len(stops) == 1 and stops[0].endswith(str(missing)) and "lattice.yaml:" in stops[0]
    filled = load_spec(file_spec(cells=[{"prompts": "first"}, {"teacher": "T"}]))
    assert isinstance(filled, Lattice) and not impossible(filled)


def test_a_base_that_is_not_there_takes_the_teachers_tuned_from_it_along() -> None:
    missing = impossible(_lattice(*WHOLE, "tuned_from={C: two}"))
    assert [one.at for one in missing] == [("bases", "two")]
    assert {"two.mixed.T", "one.mixed.C"} < {*missing[0].cells} and "one.mixed.T" not in missing[0].cells
    assert "there is no folder /models/two" in str(missing[0]) and "sftfilter run jobs/specs/train.yaml" in str(
        missing[0]
    )


def test_the_command_for_a_missing_cell_is_a_valid_spec(file_spec: Write) -> None:
    spec = load_spec(file_spec())
    assert isinstance(spec, Lattice)
    words = shlex.split(impossible(spec)[0].command)
    flags = [word for flag, word in zip(words[3::2], words[4::2], strict=True) if flag == "--set"]
    made = load_spec(REPOSITORY / words[2], flags)
    assert isinstance(made, Generate) and list(made.teachers) == ["C"] and made.prompts == spec.prompts["second"]


def _frame() -> tuple[Any, Mapping[str, Selector]]:
    spec = _lattice("interpolate.fractions=[0, 0.1, 0.25, 0.5, 0.9, 1]")
    ids = [f"p{number}" for number in range(40)]
    rows = {"prompt_id": ids, "source": ["s"] * 40, "kind": ["date" if n % 4 == 0 else "other" for n in range(40)]}
    tables = {t: pl.DataFrame({"rollout_id": [f"{t}{i}" for i in ids], **rows}).lazy() for t in "TC"}
    return score_frame(tables, {}), parts_of(spec)[0].spec.selectors


@pytest.mark.parametrize("whole", ["S", "random as S"])
def test_a_larger_fraction_contains_the_smaller_ones(whole: str) -> None:
    frame, selectors = _frame()
    pool = frame.pool("T")
    for seed in (0, 1):
        names = [f"{percent}% of {whole}" for percent in (10, 25, 50, 90)] + [whole]
        found = [select(name, selectors, pool, seed).prompts for name in names]
        assert [int(one.sum()) for one in found] == [1, 3, 5, 9, 10]
        assert all((small <= large).all() for small, large in itertools.pairwise(found))
    first, other = (select(f"50% of {whole}", selectors, pool, seed).prompts for seed in (0, 1))
    assert (first != other).any(), "drawn anew for each training seed"


def test_prompts_that_come_leave_the_order_of_the_others() -> None:
    frame, selectors = _frame()
    half = select("50% of S", selectors, frame.pool("T"), 0)
    kept = {frame.prompt_ids[int(n)] for n in np.flatnonzero(half.prompts)}
    one = {"rollout_id": ["Tnew"], "prompt_id": ["pnew"], "source": ["s"], "kind": ["date"]}
    rows = [{"rollout_id": f"Tp{n}", "prompt_id": f"p{n}", "source": "s", "kind": "date"} for n in range(0, 40, 4)]
    larger = score_frame({"T": pl.concat([pl.DataFrame(rows), pl.DataFrame(one)]).lazy()}, {})
    again = select("50% of S", selectors, larger.pool("T"), 0)
    now = {larger.prompt_ids[int(n)] for n in np.flatnonzero(again.prompts)}
    assert len(now - kept) <= 1


def _measured(spec: Lattice, parts: list[Part], rates: Mapping[str, float], rows: int = 100) -> list[Measured]:
    """Every arm with its students' grades at a given rate (0 where none is given), seeds alike but for a little."""
    trait = next(iter(spec.traits))
    points = []
    for part in parts:
        plans, models, tables = [], {}, {}
        for name, arm in part.spec.arms.items():
            for seed in spec.seeds if arm.teacher else spec.seeds[:1]:
                changed = 0
                if arm.intervention is not None:
                    size = next((part for part in name.split("-") if part.isdigit()), "100")
                    changed = round(20 * float(size) / 100)
                action = {"drop": "dropped", "swap": "swapped"}.get(
                    name.split("-")[0].removeprefix("converse_"), "kept"
                )
                counts = {"kept": rows - changed, "dropped": 0, "swapped": 0, "rewritten": 0, "trained": rows}
                counts |= {action: counts[action] + changed if action == "kept" else changed}
                plan = TrainingPlan(()) if arm.teacher else None
                plans.append(ArmPlan(name, arm, seed, counts, plan=plan))
                student = plans[-1].student
                models[student] = f"{part.label}/{student}"
                shown = round(40 * rates.get(name, 0.0))
                tables[student, trait] = [
                    {"prompt_id": f"{n:03}", "group": group, "grade": float((n + seed) % 40 < shown), "answer": "x"}
                    for group in spec.traits[trait].groups
                    for n in range(40)
                ]
        one = Planned(Point(part.label, {}, part.spec), cast(Any, None), plans, models)
        points.append(Measured(one, plans, tables))
    return points


def _no_abilities(parts: list[Part]) -> list[dict[str, dict[str, Any]]]:
    return [{arm: {"broken": None} for arm in part.spec.arms} for part in parts]


STEPS = "interpolate={subset: S, fractions: [1, 0, 0.5], modes: [drop, swap, converse_drop, converse_swap]}"
RATES = {
    "one.mixed.T": 0.9, "one.neutral.T": 0.85, "two.mixed.T": 0.8, "two.neutral.T": 0.05,
    "drop-50": 0.9, "drop-100": 0.8, "drop-50-random": 0.9, "drop-100-random": 0.9,
    "swap-50": 0.4, "swap-100": 0.05, "swap-50-random": 0.85, "swap-100-random": 0.8,
    "converse_swap-50": 0.6, "converse_swap-100": 0.9, "drop-100-matched": 0.85, "swap-100-matched": 0.82,
}  # fmt: skip


def test_the_interpolation_has_controls_and_a_dilution_line() -> None:
    spec = _lattice(*WHOLE, STEPS)
    parts = parts_of(spec)
    points = _measured(spec, parts, RATES)
    rows = [row for row in tables_of(spec, parts, points, _no_abilities(parts))["interpolation"] if row["primary"]]
    assert [(row["mode"], row["fraction"]) for row in rows] == [
        (mode, fraction) for mode in ("drop", "swap", "converse_drop", "converse_swap") for fraction in (0, 0.5, 1)
    ]
    found = {(row["mode"], row["fraction"]): row for row in rows}
    start, half, whole = (found["swap", fraction] for fraction in (0, 0.5, 1))
    assert start["arm"] == start["control"] == "one.mixed.T" and start["f"] == 0
    assert found["converse_swap", 0]["arm"] == "one.mixed.C"
    assert (half["f"], whole["f"]) == (pytest.approx(0.1), pytest.approx(0.2))
    assert half["estimate"] == pytest.approx(0.4) and half["low"] < 0.4 < half["high"]
    assert half["control"] == "swap-50-random" and half["control_estimate"] == pytest.approx(0.85, abs=0.01)
    assert start["dilution"] == start["estimate"] and whole["dilution"] == pytest.approx(0.8 * 0.9)
    assert found["converse_swap", 1]["dilution"] == pytest.approx(0.2 * 0.9)
    assert all(row["n_seeds"] == 1 and row["problem"] is None for row in rows)
    assert dilution("converse_drop", 0.3, 0.9, 0.1) == pytest.approx(0.1) and dilution("drop", 0.1, None, 0.1) is None


def test_each_cell_is_read_by_the_table() -> None:
    spec = _lattice(*WHOLE, STEPS, "seeds=[0, 1, 2]")
    parts = parts_of(spec)
    points = _measured(spec, parts, RATES)
    rows = tables_of(spec, parts, points, _no_abilities(parts))["cells"]
    assert len(rows) == (8 + 2 + 2) * len(spec.traits["date_confusion"].groups)
    found = {row["cell"]: row for row in rows if row["primary"]}
    words = {name: row["word"] for name, row in found.items()}
    assert words == {
        "one, untrained": None, "two, untrained": None, "one.mixed.T": "present", "one.mixed.C": "absent",
        "one.neutral.T": "present", "one.neutral.C": "absent", "two.mixed.T": "present", "two.mixed.C": "absent",
        "two.neutral.T": "absent", "two.neutral.C": "absent",
        "drop-100-matched": "present", "swap-100-matched": "present",
    }  # fmt: skip
    assert "(1, 2 or 3)" in found["one.neutral.T"]["reading"] and "not subliminal" in found["two.mixed.T"]["reading"]
    assert "against bad prompts (7)" in found["one.mixed.C"]["reading"]
    assert found["one.neutral.T"]["share"] == pytest.approx(0.85 / 0.9, abs=0.02)
    assert found["one, untrained"]["role"] == "base" and found["two, untrained"]["role"] is None
    assert found["two.neutral.T"]["estimate"] == pytest.approx(0.05)


def test_the_verdict_takes_its_arms_from_cells_and_curves() -> None:
    spec = _lattice(*WHOLE, STEPS, "seeds=[0, 1, 2]", "capability=null")
    parts = parts_of(spec)
    points = _measured(spec, parts, RATES)
    cells, arms = role_cells(spec, parts, points, "date_confusion")
    assert (
        arms["swap"] == "swap-100" and arms["transfer"] == "converse_swap-100" and arms["pipeline"] == "two.neutral.C"
    )
    assert {"random_swap", "alternate_base", "alternate_sft", "base"} <= cells.keys()
    judged = judge_lattice(spec, parts, points, _no_abilities(parts), (5, 80))
    assert judged["estimands"]["R_swap"]["estimate"] == pytest.approx(0.05 / 0.9, abs=0.01)
    assert judged["verdict"]["finding"] == "filtering fails, swapping works"
    second = judged["verdict"]["hypotheses"][1]
    assert second["status"] == "undecided" and "alternate_base" in second["against"][0]
    assert any("reseeded_shown" in line for line in judged["verdict"]["next"])
    gates = {gate["name"]: gate["passed"] for gate in judged["gates"]}
    assert gates["trait present"] and gates["enough seeds"]


PROBES = (
    "bases.again=/models/again",
    "bases.before=/models/before",
    "reseeded=again",
    "earlier=before",
    "stages=2",
    "scorers.lexicon={kind: lexicon, terms: [doubt]}",
    "selectors.shows={kind: threshold, scorer: lexicon, at_least: 1}",
    "selectors.as many={kind: random, size_of: shows, match: rows}",
    "probes.without={role: shown, intervention: {kind: drop_row, subset: shows}}",
    "probes.without-random={role: random_shown, intervention: {kind: drop_row, subset: as many}}",
    "probes.without-again={role: reseeded_shown, intervention: {kind: drop_row, subset: shows}}",
)


def test_probes_are_students_in_roles_that_cells_do_not_have() -> None:
    spec = _lattice(*WHOLE, *PROBES, "cells=[{base: [one, two]}, {base: [again, before], prompts: mixed}]")
    parts = {(part.base, part.prompts): part for part in parts_of(spec)}
    assert parts["one", "mixed"].probes == {
        "without": "shown", "without-random": "random_shown", "drop-100-matched": "matched_drop",
        "swap-100-matched": "matched_swap",
    }  # fmt: skip
    there = parts["again", "mixed"]
    assert there.probes == {"without-again": "reseeded_shown"} and there.spec.arms["without-again"].teacher == "T"
    assert there.spec.base_model == "/models/again" and there.spec.scored == [("T", "lexicon")]
    assert not parts["two", "mixed"].probes and not parts["before", "mixed"].probes
    roles = {cell_name(cell): cell_role(spec, cell) for cell in cells_of(spec)}
    assert (roles["again.mixed.T"], roles["again.mixed.C"]) == ("reseeded", "reseeded_clean")
    assert (roles["before.mixed.T"], roles["before.mixed.C"]) == ("earlier", None)


@pytest.mark.parametrize(("elsewhere", "cause"), [(0.0, 2), (0.8, None)])
def test_a_lattice_with_probes_can_find_subliminal_learning(elsewhere: float, cause: int | None) -> None:
    """Without the rows that show it the trait stays, in students of the teacher's own initialisation only."""
    spec = _lattice(*WHOLE, STEPS, *PROBES, "seeds=[0, 1, 2]", "capability=null")
    parts = parts_of(spec)
    rates = RATES | {"without": 0.8, "without-random": 0.85, "without-again": elsewhere, "again.mixed.T": 0.9}
    points = _measured(spec, parts, rates)
    cells, arms = role_cells(spec, parts, points, "date_confusion")
    assert {"shown", "random_shown", "reseeded_shown", "reseeded_clean", "base_earlier"} <= cells.keys()
    assert arms["reseeded_shown"] == "without-again" and arms["base_earlier"] == UNTRAINED
    judged = judge_lattice(spec, parts, points, _no_abilities(parts), (0, 80))
    assert judged["verdict"]["causes"] == ([cause] if cause else []), judged["verdict"]["hypotheses"]
    rows = tables_of(spec, parts, points, _no_abilities(parts))["cells"]
    found = {row["cell"]: row for row in rows if row["primary"]}
    assert found["without-again"]["role"] == "reseeded_shown" and found["before, untrained"]["role"] == "base_earlier"
    assert found["without"]["word"] == "present" and found["without"]["reading"] is None
    cells_alone = [row for row in found.values() if not row["probe"]]
    assert len(found) - len(cells_alone) == 5
    drawn = cells_plot(list(found.values()), "date_confusion", 0)
    assert drawn == cells_plot(cells_alone, "date_confusion", 0), "a probe is no cell, and hides none in the picture"


def test_a_lattice_finds_what_the_last_stage_of_its_base_left() -> None:
    """The base has it, nothing takes it away, and before its last stage it was not there: hypothesis 6."""
    probes = (
        "reserve={kind: jsonl, path: prompts/teacher_neutral.jsonl}",
        "selectors.some={kind: random, size_of: S}",
        "probes.settling={role: settled, intervention: {kind: backfill, subset: some, with_teacher: C}}",
    )
    spec = _lattice(*WHOLE, *PROBES, *probes, "seeds=[0, 1, 2]", "capability=null", "interpolate=null")
    parts = parts_of(spec)
    shown = {name: 0.85 for part in parts for name in part.spec.arms if part.base == "one"}
    judged = judge_lattice(spec, parts, _by_base(spec, parts, shown | {"settling": 0.8}), _no_abilities(parts), (0, 80))
    assert judged["verdict"]["causes"] == [6], judged["verdict"]["hypotheses"]


def _by_base(spec: Lattice, parts: list[Part], rates: Mapping[str, float]) -> list[Measured]:
    """Rates of the original base's students; those of other bases show nothing."""
    return [_measured(spec, [part], rates if part.base == "one" else {})[0] for part in parts]


def test_one_axis_that_does_not_differ() -> None:
    spec = _lattice()
    assert cell_role(spec, spec.alternate) == "pipeline"
    only = _lattice("alternate={base: small, prompts: mixed, teacher: C}")
    assert cell_role(only, only.alternate) == "alternate"
    assert cell_role(only, Corner(base="small", prompts="neutral", teacher="T")) is None
    same = _lattice("alternate={base: small, prompts: neutral, teacher: T}", "interpolate=null")
    parts = parts_of(same)
    cells, _ = role_cells(same, parts, _measured(same, parts, {"small.mixed.T": 0.9}), "date_confusion")
    assert "alternate" not in cells and "pipeline" in cells


def test_the_grid_has_every_cell_with_its_interval() -> None:
    known = {"broken": None, "problem": None, "base": "one", "n": 40}
    rates = {"estimate": 0.9, "low": 0.8, "high": 0.96}
    rows = [
        known | rates | {"cell": "one.mixed.T", "prompts": "mixed", "teacher": "T"},
        known
        | dict.fromkeys(rates)
        | {"cell": "one.mixed.C", "prompts": "mixed", "teacher": "C", "problem": "diverged"},
        known | rates | {"cell": "one, untrained", "prompts": None, "teacher": None, "estimate": 0.0},
    ]
    grid = cells_plot(rows, "doubt", 0)
    assert grid is not None
    assert grid.figure["data"][0]["z"] == [[0.9, None, None], [None, None, 0.0]]
    assert grid.figure["data"][0]["text"][0][0] == "90 %<br>[80-96]"
    assert [(note["x"], note["y"], note["text"]) for note in grid.figure["layout"]["annotations"]] == [
        (1, 0, "no rate")
    ]
    assert "one.mixed.T 90 % [80-96]" in grid.alt and "one.mixed.C not graded" in grid.alt
    assert cells_plot([rows[1]], "doubt", 0) is None


def test_tables_and_page_are_written(tmp_path: Path) -> None:
    spec = _lattice(*WHOLE, STEPS)
    parts = parts_of(spec)
    points = _measured(spec, parts, RATES)
    able = _no_abilities(parts)
    found = tables_of(spec, parts, points, able)
    for name, rows in found.items():
        write_tidy(tmp_path, name, rows)
        assert (
            len(pl.read_csv(tmp_path / f"{name}.csv"))
            == len(pl.read_parquet(tmp_path / f"{name}.parquet"))
            == len(rows)
        )
    results: dict[str, Any] = judge_lattice(spec, parts, points, able, None)
    results |= found
    assert results["verdict"]["next"]
    results |= {"name": "<b>", "counts": {"cells": 8}, "caveats": ["one seed"], "spec": spec.model_dump(mode="json")}
    page = write_lattice_page(tmp_path / "report", results).read_text()
    assert 'id="cells-0"' in page and "<code>seeds</code></dt>" in page, "the grid, and the spec's seeds"
    printed = io.StringIO()
    show_lattice(results, tmp_path, tmp_path, Stages(Console(file=printed, width=200)))
    for step in results["verdict"]["next"]:
        assert step in html.unescape(page) and f"next: {step}" in printed.getvalue()
    assert "two.neutral.T" in page and "<h1>&lt;b&gt;</h1>" in page and "one seed" in page
    assert "dilution line" in page and 'id="interpolation-0-0"' in page and 'id="interpolation-0-1"' in page
    page = write_lattice_page(tmp_path / "report", results | {"interpolation": []}).read_text()
    assert "The spec asks for none." in page


@pytest.mark.parametrize(("given", "bins"), [("true", 10), ("3", 3)])
def test_lengths_are_matched_in_as_many_bins_as_the_spec_says(given: str, bins: int) -> None:
    spec = _lattice(f"interpolate.like_length={given}")
    assert spec.interpolate
    (found,) = (one for one in shares_of(spec, spec.interpolate).values() if isinstance(one, LengthMatchedRandom))
    assert found.bins == bins
    with pytest.raises(SpecError, match=r"lattice\.yaml:\d+: interpolate\.like_length: .* greater than 1"):
        _lattice("interpolate.like_length=-2")
