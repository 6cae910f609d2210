"""Each hypothesis from arms whose truth is known: what supports it, what denies it, what leaves it open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sftfilter.estimands import estimate_all
from sftfilter.readings import Bounds, Readings
from sftfilter.stats import rate
from sftfilter.verdict import Evidence, Facts, Gates, judge

CLEAN = {
    "original": 0.8,
    "alternate": 0.01,
    "pipeline": 0.01,
    "base": 0.0,
    "drop_alternate": 0.01,
    "alternate_sft": 0.01,
}
CARRIED = CLEAN | {"drop": 0.7, "swap": 0.4, "random_drop": 0.78, "random_swap": 0.7}
HIDDEN = CARRIED | {"shown": 0.68, "random_shown": 0.78, "reseeded_clean": 0.0}
FOUND = Facts((40, 300), 0)
PROMPTS = CLEAN | {"alternate": 0.78, "drop": 0.01, "random_drop": 0.78, "matched_drop": 0.77}
IN_BASE = {
    "original": 0.8,
    "alternate": 0.8,
    "pipeline": 0.0,
    "alternate_sft": 0.79,
    "alternate_base": 0.0,
    "base": 0.8,
}


def _cells(rates: dict[str, float], seeds: int, prompts: int) -> dict[str, np.ndarray]:
    """Samples of 4 answers a prompt and seed; the untrained base is one model."""
    rng = np.random.default_rng(1)
    sizes = {role: (prompts, 1 if role == "base" else seeds) for role in rates}
    return {role: rng.binomial(4, r, sizes[role]) / 4 for role, r in rates.items()}


def _judge(
    rates: dict[str, float], facts: Facts = Facts(), seeds: int = 4, prompts: int = 60, gates: Gates = Gates()
) -> dict[str, Any]:
    cells = _cells(rates, seeds, prompts)
    evidence = Evidence(
        rates={role: rate(matrix).as_dict() for role, matrix in cells.items()},
        estimands=estimate_all({r: m for r, m in cells.items() if r != "base"}, 0.15),
        seeds=seeds,
        cells=cells,
        facts=facts,
        arms={"drop": "drop-S"},
    )
    return judge(evidence, gates)[0]


def _status(verdict: dict[str, Any]) -> dict[int, str]:
    return {row["id"]: row["status"] for row in verdict["hypotheses"]}


@pytest.mark.parametrize(
    ("rates", "facts", "causes"),
    [
        (CARRIED | {"shown": 0.02, "random_shown": 0.76}, Facts((40, 300), 0), [1]),
        (HIDDEN | {"reseeded_shown": 0.0}, Facts((0, 300), 0), [2]),
        (
            HIDDEN | {"reseeded_shown": 0.6, "marked": 0.02, "random_marked": 0.6},
            Facts((0, 300), 90),
            [3],
        ),
        (
            HIDDEN | {"missed": 0.6, "random_missed": 0.0, "reseeded_shown": 0.6, "marked": 0.02, "random_marked": 0.6},
            Facts((40, 300), 90),
            [1, 3],
        ),
        (IN_BASE | {"base": 0.0, "settled": 0.03, "refilled": 0.78}, Facts((0, 300), 0), [4]),
        (IN_BASE | {"settled": 0.75, "refilled": 0.8, "base_earlier": 0.78}, Facts((0, 300), 0, 2), [5]),
        (IN_BASE | {"settled": 0.75, "refilled": 0.8}, Facts((0, 300), 0, 1), [5]),
        (IN_BASE | {"settled": 0.75, "refilled": 0.8, "base_earlier": 0.0}, Facts((0, 300), 0, 2), [6]),
        (PROMPTS, Facts((0, 300), 0), [7]),
    ],
)
def test_each_cause_is_found_and_no_other(rates: dict[str, float], facts: Facts, causes: list[int]) -> None:
    verdict = _judge(rates, facts)
    assert verdict["causes"] == causes, verdict["hypotheses"]
    assert not {n for n in causes if _status(verdict)[n] == "contradicted"}


def test_a_filter_does_not_work_when_the_prior_comes_back_from_under_it() -> None:
    """R_drop is 0, since S dropped from the clean teacher brings the trait as well; yet it stays."""
    rates = CLEAN | {"drop": 0.6, "drop_alternate": 0.6, "swap": 0.02, "random_drop": 0.78, "random_swap": 0.7}
    verdict = _judge(rates | {"random_drop_alternate": 0.02}, Facts((0, 300), 0))
    assert verdict["finding"] != "filter works"
    assert verdict["causes"] == [4]


def test_a_base_that_has_it_is_no_lock_in_while_nothing_tried_to_settle_it() -> None:
    verdict = _judge(IN_BASE | {"base_earlier": 0.0}, Facts((0, 300), 0, 2))
    assert verdict["label"] == "base prior"
    assert {n: _status(verdict)[n] for n in (4, 5, 6)} == {4: "undecided", 5: "undecided", 6: "undecided"}
    (settling,) = (line for line in verdict["next"] if "settled, refilled" in line)
    assert "speaks to 4, 5, 6; 2 arms x 4 seeds = 8 students" in settling
    for row in verdict["hypotheses"]:
        told = [
            line
            for line in row["separating"]
            if line.endswith("(roles settled, refilled); 2 arms x 4 seeds = 8 students")
        ]
        assert bool(told) == (row["id"] in (4, 5, 6)), row


def test_earlier_stages_that_nobody_measured_leave_5_and_6_open() -> None:
    verdict = _judge(IN_BASE | {"settled": 0.75, "refilled": 0.8}, Facts((0, 300), 0))
    assert {n: _status(verdict)[n] for n in (5, 6)} == {5: "undecided", 6: "undecided"}


def test_clean_rows_that_settle_it_do_not_deny_a_persona() -> None:
    """Among the alternate's rows the persona's are not enough, since those settle the behaviour: no evidence against it."""
    rates = HIDDEN | {
        "reseeded_shown": 0.6,
        "marked": 0.02,
        "random_marked": 0.6,
        "persona": 0.02,
        "random_persona": 0.0,
    }
    assert _judge(rates, Facts((0, 300), 90))["causes"] == [3]


@pytest.mark.parametrize(("left", "status"), [(0.1, "undecided"), (0.01, "contradicted")])
def test_a_persona_that_carries_a_little_beside_a_stronger_cause_is_not_denied(left: float, status: str) -> None:
    """Without the rows that show it a tenth is left, and goes with the persona's rows: too little to be claimed."""
    rates = CARRIED | {"shown": left, "random_shown": 0.76, "missed": 0.6, "random_missed": 0.0}
    rates |= {"reseeded_shown": left, "reseeded_clean": 0.0, "marked": 0.005, "random_marked": left}
    verdict = _judge(rates, Facts((40, 300), 90))
    assert verdict["causes"] == [1] and _status(verdict)[3] == status


def test_a_persona_that_another_base_does_not_know_is_neither_subliminal_nor_denied() -> None:
    rates = HIDDEN | {"reseeded_shown": 0.02, "marked": 0.02, "random_marked": 0.6}
    verdict = _judge(rates, Facts((0, 300), 90))
    assert verdict["causes"] == [] and {_status(verdict)[n] for n in (2, 3)} == {"undecided"}
    told = verdict["hypotheses"][1]
    assert any("what carries it can be seen" in line for line in told["against"])
    stays = _judge(rates | {"marked": 0.6}, Facts((0, 300), 90))
    assert stays["causes"] == [2] and _status(stays)[3] == "contradicted"


def test_rows_that_carry_it_to_another_base_keep_a_persona_open() -> None:
    rates = CLEAN | {"drop": 0.7, "swap": 0.4, "random_drop": 0.78, "shown": 0.01, "random_shown": 0.76}
    rates |= {"reseeded_clean": 0.0}
    assert _status(_judge(rates | {"reseeded_shown": 0.0}, Facts((40, 300), 90)))[3] == "contradicted"
    assert _status(_judge(rates | {"reseeded_shown": 0.6}, Facts((40, 300), 90)))[3] != "contradicted"


def test_clean_students_that_do_not_fall_back_on_it_are_no_proof_that_nothing_is_open() -> None:
    verdict = _judge(CARRIED, Facts((40, 300), 0))
    four = verdict["hypotheses"][3]
    assert four["status"] == "undecided" and any("do not fall back on it" in line for line in four["against"])


@pytest.mark.parametrize(
    "control",
    [{"random_drop": 0.02}, {"random_drop": None}, {"matched_drop": 0.3}, {"matched_drop": None}],
    ids=["any rows", "no random drop", "rows of like length", "none of like length"],
)
def test_what_dropping_any_rows_does_settles_nothing(control: dict[str, float | None]) -> None:
    rates = CLEAN | {"drop": 0.01, "random_drop": 0.78, "matched_drop": 0.77}
    assert {_status(_judge(rates, Facts((0, 300), 0)))[n] for n in (1, 2, 3)} == {"contradicted"}
    changed = {role: rate for role, rate in (rates | control).items() if rate is not None}
    verdict = _judge(changed, Facts((0, 300), 0))
    assert {_status(verdict)[n] for n in (1, 2, 3)}.isdisjoint({"contradicted", "supported"})
    prompts = {role: rate for role, rate in (PROMPTS | control).items() if rate is not None}
    assert _judge(prompts, Facts((0, 300), 0))["causes"] == []


def test_a_waived_like_length_control_is_not_asked_for() -> None:
    rates = {role: rate for role, rate in PROMPTS.items() if role != "matched_drop"}
    assert _judge(rates, Facts((0, 300), 0), gates=Gates(length_control=False))["causes"] == [7]


def test_a_little_that_is_surely_left_without_s_keeps_its_carriers_open() -> None:
    """0.2 of the trait passes for gone, and is there beyond doubt."""
    rates = CLEAN | {"drop": 0.17, "random_drop": 0.78, "matched_drop": 0.77}
    verdict = _judge(rates, Facts((0, 300), 0), prompts=200)
    assert {r["role"]: r["word"] for r in verdict["readings"]}["drop"] == "gone"
    assert {_status(verdict)[n] for n in (1, 2, 3)}.isdisjoint({"contradicted"})
    assert any("something surely is" in line for line in verdict["hypotheses"][0]["against"])


@pytest.mark.parametrize("base", [None, 0.5])
def test_no_cause_in_rows_or_prompts_without_a_clean_base(base: float | None) -> None:
    for rates, facts in ((PROMPTS, Facts((0, 300), 0)), (CARRIED | {"shown": 0.02, "random_shown": 0.76}, FOUND)):
        changed = {role: rate for role, rate in (rates | {"base": base}).items() if rate is not None}
        assert _judge(changed, facts)["causes"] == []


def test_nothing_is_settled_of_a_trait_that_is_not_there_to_study() -> None:
    few = {role: 0.2 if role == "original" else rate / 4 for role, rate in CARRIED.items()}
    for rates in (few, CARRIED | {"pipeline": 0.3}):
        verdict = _judge(rates, Facts((0, 300), 0), prompts=200)
        assert verdict["finding"] == "no trait to study"
        assert not {"supported", "contradicted"} & set(_status(verdict).values())


def test_no_cause_without_its_control() -> None:
    missing = CARRIED | {"shown": 0.02}
    missing.pop("random_drop")
    assert _judge(missing, Facts((40, 300), 0))["causes"] == []
    assert _judge(CARRIED | {"shown": 0.02, "random_shown": 0.03}, Facts((40, 300), 0))["causes"] == []
    assert _judge(HIDDEN | {"reseeded_shown": 0.3}, Facts((0, 300), 0))["causes"] == []


def test_dilution_is_judged_on_its_own_line() -> None:
    """A random swap of 30 % leaves 70 % by dilution alone: no reason to doubt the control."""
    cells = _cells(
        {"original": 0.8, "alternate": 0.0, "drop": 0.8, "drop_alternate": 0.0, "swap": 0.56, "random_swap": 0.56}
        | {"base": 0.0, "random_drop": 0.8},
        4,
        80,
    )
    rates = {role: rate(matrix).as_dict() for role, matrix in cells.items()}
    evidence = Evidence(rates=rates, estimands=estimate_all(cells, 0.3), seeds=4, cells=cells)
    assert judge(evidence, Gates())[0]["finding"] == "dilution only"


def test_shares_are_over_the_arms_own_clean_comparator() -> None:
    cells = {
        "original": np.full((20, 3), 0.9),
        "alternate": np.full((20, 3), 0.1),
        "swap": np.full((20, 3), 0.26),
        "reseeded_clean": np.full((20, 3), 0.5),
        "reseeded_shown": np.full((20, 3), 0.5),
        "base": np.full((20, 1), 0.1),
    }
    found = Readings(cells, Bounds(0.25, 0.5, 0.15)).at()
    assert found["swap"].share == pytest.approx(0.2) and found["swap"].word == "gone"
    assert found["reseeded_shown"].share == pytest.approx(0.0)
    assert found["base"].share == pytest.approx(0.0)
    assert "original" not in found


def test_evidence_names_the_arm_and_its_numbers() -> None:
    verdict = _judge(CLEAN | {"drop": 0.01, "random_drop": 0.78, "matched_drop": 0.77}, Facts((0, 300), 0))
    row = verdict["hypotheses"][0]
    assert row["status"] == "contradicted"
    assert row["against"][0].startswith("drop (drop-S): share 0.0") and "rate 1%" in row["against"][0]
    assert verdict["label"] == "filter works"


def test_nan_grades_and_a_missing_seed_do_not_break_it() -> None:
    cells = _cells(HIDDEN | {"reseeded_shown": 0.0}, 4, 60)
    for matrix in cells.values():
        matrix[3] = np.nan
    cells["shown"][:, 1] = np.nan
    rates = {role: rate(matrix).as_dict() for role, matrix in cells.items()}
    evidence = Evidence(rates=rates, estimands={}, seeds=4, cells=cells, facts=Facts((0, 300), 0))
    assert {row["id"] for row in judge(evidence, Gates())[0]["hypotheses"]} == set(range(1, 8))
