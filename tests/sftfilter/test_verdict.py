"""Verdicts from evidence whose truth is known, and none past a failed gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sftfilter.estimands import estimate_all
from sftfilter.stats import rate
from sftfilter.verdict import Evidence, Facts, Gates, judge

CLEAN = {
    "original": 0.9,
    "alternate": 0.0,
    "base": 0.0,
    "drop_alternate": 0.0,
    "matched_drop": 0.87,
    "matched_swap": 0.84,
}
SWAP_WORKS = CLEAN | {"drop": 0.8, "swap": 0.02, "random_drop": 0.9, "random_swap": 0.85}
FILTER_WORKS = CLEAN | {"drop": 0.05, "swap": 0.02, "random_drop": 0.88, "random_swap": 0.85}
DILUTED = CLEAN | {"drop": 0.85, "swap": 0.78, "random_drop": 0.9, "random_swap": 0.78}


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


@pytest.mark.parametrize(
    ("rates", "label", "controls"),
    [
        (SWAP_WORKS, "filtering fails, swapping works", ("base", "random_drop", "random_swap", "matched_swap")),
        (FILTER_WORKS, "filter works", ("base", "random_drop", "matched_drop")),
        (DILUTED, "dilution only", ("base", "random_drop", "random_swap")),
    ],
)
def test_no_claim_without_any_of_its_controls(rates: dict[str, float], label: str, controls: tuple[str, ...]) -> None:
    for role in controls:
        without = {r: rate for r, rate in rates.items() if r != role}
        verdict, _ = judge(_evidence(without), Gates())
        assert verdict["label"] == "undecided", role
        assert any("not evaluable" in reason for reason in verdict["reasons"]), role
    assert label == judge(_evidence(rates), Gates())[0]["label"]


def test_a_like_length_control_that_loses_the_trait_stops_the_claim() -> None:
    verdict = judge(_evidence(SWAP_WORKS | {"matched_swap": 0.3}), Gates())[0]
    assert verdict["label"] == "undecided"
    (why,) = [reason for reason in verdict["reasons"] if reason.startswith("not filtering fails, swapping works")]
    assert "R_matched_swap >= 0.8, found 0.33" in why and "R_random_swap" not in why
    assert judge(_evidence(FILTER_WORKS | {"matched_drop": 0.3}), Gates())[0]["label"] == "undecided"


def test_a_spec_may_waive_the_like_length_control_and_the_rule_says_so() -> None:
    without = {r: rate for r, rate in SWAP_WORKS.items() if not r.startswith("matched")}
    verdict, gates = judge(_evidence(without), Gates(length_control=False))
    assert verdict["label"] == "filtering fails, swapping works"
    (rule,) = [gate["rule"] for gate in gates if gate["name"] == "like length swapped keeps it"]
    assert "waived by the spec" in rule


def test_a_swap_that_surely_beats_a_random_one_is_no_mere_dilution() -> None:
    """R_swap is 0.70 where the line is 0.90: few prompts leave its interval on the line, the paired difference does not."""
    rng = np.random.default_rng(3)
    hard = rng.random((60, 1))
    rates = CLEAN | {"drop": 0.75, "swap": 0.6, "random_drop": 0.86, "random_swap": 0.82}
    cells = {role: np.repeat((hard < rate).astype(float), 3, axis=1) for role, rate in rates.items()}
    estimands = estimate_all(cells, 0.1)
    assert estimands["R_random_swap_minus_R_swap"]["low"] > 0
    evidence = Evidence({role: rate(m).as_dict() for role, m in cells.items()}, estimands, 3, cells)
    assert judge(evidence, Gates())[0]["finding"] == "undecided"


def test_ungraded_answers_stop_every_claim() -> None:
    """A judge that refuses what shows the trait leaves a clean-looking rest."""
    evidence = _evidence(FILTER_WORKS)
    assert judge(replace(evidence, ungraded={"drop": 0.04}), Gates())[0]["label"] == "filter works"
    verdict, gates = judge(replace(evidence, ungraded={"drop": 0.3, "swap": 0.01}), Gates())
    assert verdict["label"] == "no verdict" and "ungraded answers of drop" in verdict["reasons"][0]
    assert {gate["name"]: gate["value"] for gate in gates}["answers graded"] == 0.3
    assert not any(h["status"] in ("supported", "contradicted") for h in verdict["hypotheses"])
    assert judge(replace(evidence, ungraded={"drop": 0.3}), Gates(max_ungraded=0.5))[0]["label"] == "filter works"


def _lose(evidence: Evidence, role: str, seeds: list[int]) -> Evidence:
    cells = {r: m.copy() for r, m in evidence.cells.items()}
    cells[role][:, seeds] = np.nan
    rates = {r: rate(m).as_dict() for r, m in cells.items()}
    return replace(evidence, cells=cells, rates=rates, estimands=estimate_all(cells, 0.15))


def test_lost_seeds_count_against_the_gate() -> None:
    evidence = _lose(_evidence(SWAP_WORKS), "swap", [2])
    verdict, gates = judge(evidence, Gates())
    assert verdict["label"] == "underpowered"
    assert verdict["reasons"][0].startswith("2 training seeds of 3 graded in every arm that a claim reads, 3 needed")
    assert {gate["name"]: gate["value"] for gate in gates}["enough seeds"] == 2
    assert evidence.estimands["R_swap"]["n_seeds"] == 2 and evidence.estimands["R_random_swap"]["n_seeds"] == 3
    assert not any(h["status"] in ("supported", "contradicted") for h in verdict["hypotheses"])


def test_an_arm_that_lost_its_seeds_is_not_read() -> None:
    """Four seeds of which three are enough: two lost ones leave the arm itself unclear, and no other."""
    evidence = _evidence(SWAP_WORKS | {"filter": 0.1}, seeds=4)
    words = {r["role"]: r["word"] for r in judge(evidence, Gates())[0]["readings"]}
    assert (words["filter"], words["drop"]) == ("gone", "stays")
    words = {r["role"]: r["word"] for r in judge(_lose(evidence, "filter", [0, 1]), Gates())[0]["readings"]}
    assert (words["filter"], words["drop"]) == ("unclear", "stays")


def test_contrasts_with_zero_as_their_null_have_adjusted_p_values() -> None:
    found = _evidence(SWAP_WORKS).estimands
    assert {name for name, one in found.items() if "p_holm" in one} == {
        "gap",
        "R_drop_minus_R_swap",
        "R_drop_beyond_random",
        "R_random_swap_minus_R_swap",
    }
    for one in found.values():
        if "p_holm" in one:
            assert one["p"] <= one["p_holm"] <= 1
    assert found["gap"]["p_holm"] < 0.01 < found["R_drop_beyond_random"]["p_holm"]


def test_a_grader_that_finds_no_mild_row_does_not_deny_them() -> None:
    evidence = replace(_evidence(SWAP_WORKS), facts=Facts(left_over=(0, 250)))
    (first,) = [h for h in judge(evidence, Gates())[0]["hypotheses"] if h["id"] == 1]
    assert first["status"] == "undecided" and any("in none of the 250 rows" in line for line in first["against"])


def test_an_undecided_study_says_whether_arms_or_effects_are_between() -> None:
    between = {"drop": 0.4, "swap": 0.4, "random_drop": 0.9, "random_swap": 0.8}
    told = judge(_evidence(CLEAN | between), Gates())[0]
    assert told["label"] == "undecided" and "fall between the thresholds" in told["summary"]
    untold = judge(_evidence(CLEAN | {"drop": 0.8, "swap": 0.02}), Gates())[0]
    assert untold["label"] == "undecided" and untold["summary"].startswith(
        "Arms or grades that a claim would need are missing"
    )


def test_one_seed_is_underpowered_whatever_the_estimates() -> None:
    rates = SWAP_WORKS
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
    rates = SWAP_WORKS
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
        4: "undecided",
        5: "contradicted",
        6: "contradicted",
        7: "contradicted",
    }
    prompts_teach = CLEAN | {"alternate": 0.6, "pipeline": 0.0, "drop": 0.02, "random_drop": 0.88}
    assert {h["id"]: h["status"] for h in judge(_evidence(prompts_teach), Gates())[0]["hypotheses"]}[7] == "supported"


def test_estimands_are_the_stated_ratios() -> None:
    found = _evidence({"original": 0.9, "alternate": 0.1, "drop": 0.5, "drop_alternate": 0.1, "swap": 0.3}).estimands
    assert found["R_drop"]["estimate"] == pytest.approx(0.5)
    assert found["R_swap"]["estimate"] == pytest.approx(0.25)
    assert found["dilution_line"]["estimate"] == pytest.approx(0.85)
    assert found["R_drop"]["low"] < 0.5 < found["R_drop"]["high"]
    assert "R_random_swap" not in found


def test_where_no_number_of_prompts_suffices_the_advice_is_seeds() -> None:
    """Students of three seeds that differ widely in what dropping and swapping leave."""

    def cells(shares: tuple[float, float, float], prompts: int = 60) -> np.ndarray:
        drawn = [np.random.default_rng(k).permutation(prompts) < round(s * prompts) for k, s in enumerate(shares)]
        return np.stack(drawn, axis=1).astype(float)

    arms = dict.fromkeys(("alternate", "drop_alternate"), (0.0, 0.0, 0.0)) | {
        "original": (0.9, 0.9, 0.95),
        "drop": (0.1, 0.3, 0.5),
        "swap": (0.05, 0.25, 0.1),
    }
    known = {role: cells(shares) for role, shares in arms.items()}
    evidence = Evidence(
        rates={role: rate(matrix).as_dict() for role, matrix in known.items()},
        estimands=estimate_all(known, 0.15),
        seeds=3,
        cells=known,
        facts=Facts(left_over=(40, 200)),
    )
    verdict, _ = judge(evidence, Gates())
    assert verdict["label"] == "underpowered"
    (advice, *_) = verdict["next"]
    reach = evidence.estimands["minimum_detectable_difference"]
    assert reach["prompts_for_ten_points"] is None
    assert advice.startswith(f"add training seeds (about {reach['seeds_for_ten_points']} seeds on these prompts)")
    assert "with 3 no number of held-out prompts" in advice
