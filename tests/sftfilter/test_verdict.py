"""Verdicts from evidence whose truth is known, and none past a failed gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sftfilter.estimands import estimate_all
from sftfilter.stats import rate
from sftfilter.verdict import Evidence, Facts, Gates, judge

CLEAN = {"original": 0.9, "alternate": 0.0, "base": 0.0, "drop_alternate": 0.0}


def _evidence(rates: dict[str, float], seeds: int = 3, prompts: int = 100, f: float = 0.15) -> Evidence:
    rng = np.random.default_rng(0)
    order = {role: rng.permutation(prompts) for role in rates}
    cells = {
        role: np.repeat((order[role] < round(r * prompts)).astype(float)[:, None], seeds, axis=1)
        for role, r in rates.items()
    }
    return Evidence(
        rates={role: rate(matrix).as_dict() for role, matrix in cells.items()},
        estimands=estimate_all(cells, f),
        seeds=seeds,
        cells=cells,
        facts=Facts(left_over=(40, 200)),
    )


def _label(rates: dict[str, float], **options: Any) -> str:
    return judge(_evidence(CLEAN | rates, **options), Gates())[0]["label"]


@pytest.mark.parametrize(
    ("rates", "label"),
    [
        ({"drop": 0.8, "swap": 0.02, "random_drop": 0.9, "random_swap": 0.85}, "filtering fails, swapping works"),
        ({"drop": 0.05, "swap": 0.02, "random_drop": 0.88, "random_swap": 0.85}, "filter works"),
        ({"drop": 0.85, "swap": 0.78, "random_drop": 0.9, "random_swap": 0.78}, "dilution only"),
        ({"drop": 0.4, "swap": 0.4, "random_drop": 0.9, "random_swap": 0.8}, "undecided"),
        ({"original": 0.1}, "no trait to study"),
        ({"alternate": 0.2, "drop": 0.8, "swap": 0.1}, "no trait to study"),
        ({"base": 0.5}, "base prior"),
    ],
)
def test_known_worlds_get_their_verdict(rates: dict[str, float], label: str) -> None:
    assert _label(rates) == label


def test_controls_are_needed_for_a_claim() -> None:
    assert _label({"drop": 0.8, "swap": 0.02}) == "undecided"
    assert _label({"drop": 0.8, "swap": 0.02, "random_swap": 0.3}) == "undecided"
    assert _label({"drop": 0.05, "swap": 0.02, "random_drop": 0.1}) == "undecided"


def test_an_undecided_study_says_whether_arms_or_effects_are_between() -> None:
    between = {"drop": 0.4, "swap": 0.4, "random_drop": 0.9, "random_swap": 0.8}
    told = judge(_evidence(CLEAN | between), Gates())[0]
    assert told["label"] == "undecided" and "fall between the thresholds" in told["summary"]
    untold = judge(_evidence(CLEAN | {"drop": 0.8, "swap": 0.02}), Gates())[0]
    assert untold["label"] == "undecided" and untold["summary"].startswith(
        "Arms or grades that a claim would need are missing"
    )


def test_one_seed_is_underpowered_whatever_the_estimates() -> None:
    rates = CLEAN | {"drop": 0.8, "swap": 0.02, "random_drop": 0.9, "random_swap": 0.85}
    verdict, gates = judge(_evidence(rates, seeds=1), Gates())
    assert verdict["label"] == "underpowered"
    assert any("filtering fails, swapping works" in reason for reason in verdict["reasons"])
    assert {gate["name"]: gate["passed"] for gate in gates}["enough seeds"] is False
    assert all(h["status"] in ("undecided", "not tested") for h in verdict["hypotheses"])


def test_few_prompts_are_underpowered() -> None:
    rates = {"drop": 0.5, "swap": 0.25, "random_drop": 1.0, "random_swap": 1.0}
    assert _label(rates, prompts=8) == "underpowered"


def test_nothing_graded_is_no_verdict() -> None:
    verdict, _ = judge(Evidence(rates={}, estimands={}, seeds=3), Gates())
    assert verdict["label"] == "no verdict"


def test_no_verdict_is_built_on_broken_students() -> None:
    rates = CLEAN | {"drop": 0.8, "swap": 0.02, "random_drop": 0.9, "random_swap": 0.85}
    evidence = _evidence(rates)
    verdict, gates = judge(
        replace(evidence, broken={"swap": "its held-out loss is 3.00 nats above the base's"}), Gates()
    )
    assert verdict["label"] == "no verdict"
    assert any("role swap are broken: its held-out loss" in reason for reason in verdict["reasons"])
    assert {gate["name"]: gate["passed"] for gate in gates}["students able"] is False
    assert all(h["status"] in ("undecided", "not tested") for h in verdict["hypotheses"])
    able, gates = judge(replace(evidence, broken={}), Gates())
    assert able["label"] == "filtering fails, swapping works"
    assert {gate["name"]: gate["passed"] for gate in gates}["students able"] is True


def test_hypotheses_follow_the_arms() -> None:
    rates = {"drop": 0.8, "swap": 0.02, "random_drop": 0.9, "random_swap": 0.85, "filter": 0.1}
    status = {h["id"]: h["status"] for h in judge(_evidence(CLEAN | rates), Gates())[0]["hypotheses"]}
    assert status == {
        1: "supported",
        2: "not tested",
        3: "not tested",
        4: "contradicted",
        5: "contradicted",
        6: "contradicted",
        7: "contradicted",
    }
    prompts_teach = CLEAN | {"alternate": 0.6, "drop": 0.02}
    assert {h["id"]: h["status"] for h in judge(_evidence(prompts_teach), Gates())[0]["hypotheses"]}[7] == "supported"


def test_estimands_are_the_stated_ratios() -> None:
    found = _evidence({"original": 0.9, "alternate": 0.1, "drop": 0.5, "drop_alternate": 0.1, "swap": 0.3}).estimands
    assert found["R_drop"]["estimate"] == pytest.approx(0.5)
    assert found["R_swap"]["estimate"] == pytest.approx(0.25)
    assert found["dilution_line"]["estimate"] == pytest.approx(0.85)
    assert found["R_drop"]["low"] < 0.5 < found["R_drop"]["high"]
    assert "R_random_swap" not in found
