"""What a run says about itself, also when arms are lost, nothing varies, grades are no numbers or gates were moved."""

from __future__ import annotations

import html
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.arms import ArmPlan
from jobs.grades import measure_record
from jobs.kinds.experiment import Arm
from jobs.outcome import changed_gates, freeze_gates
from jobs.spec import load_experiment
from sftfilter.errors import DataError
from sftfilter.traits.negative_emotion import NegativeEmotion
from tests import made_run as made
from tests.conftest import REPOSITORY
from tests.made_run import Grade, graded_at, made_run

CONTROLS = ("random-drop", "random-swap", "matched-drop", "matched-swap")
RATES = {"all-T": 0.8, "drop": 0.7, "swap": 0.1} | dict.fromkeys(CONTROLS, 0.8)
ARMS: dict[str, Any] = made.ARMS | {
    "random-drop": {"teacher": "T", "intervention": {"kind": "drop_prompt", "subset": "random"}},
    "random-swap": {"teacher": "T", "intervention": {"kind": "swap", "subset": "random", "to": "C"}},
    "matched-drop": {"teacher": "T", "intervention": {"kind": "drop_prompt", "subset": "like length"}},
    "matched-swap": {"teacher": "T", "intervention": {"kind": "swap", "subset": "like length", "to": "C"}},
}
ROLES = made.ROLES | {name.replace("-", "_"): name for name in CONTROLS}
Run = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def run(tiny_spec: Callable[..., Path], tmp_path: Path) -> Run:
    """A finished run's results and the text of its page."""

    def make(grade: Grade, how: dict[str, Any] | None = None, **changes: Any) -> tuple[dict[str, Any], str]:
        selectors = {
            "S": {"kind": "field", "equals": "date"},
            "random": {"kind": "random", "size_of": "S"},
            "like length": {"kind": "length_matched_random", "size_of": "S", "bins": 2},
        }
        given = {
            "arms": ARMS,
            "roles": ROLES,
            "seeds": [0, 1, 2],
            "scorers": {},
            "selectors": selectors,
            "capability": None,
        }
        spec = load_experiment(tiny_spec(**given | changes))
        results = made_run(spec, tmp_path / "runs", grade, **how or {})
        folder = tmp_path / "runs" / "tiny"
        assert json.loads((folder / "results.json").read_text()) == results
        return results, html.unescape((folder / "report" / "index.html").read_text())

    return make


def test_gates_changed_after_the_fact_are_named_for_ever(tmp_path: Path) -> None:
    first, second = {"min_gap": 0.3, "min_seeds": 3}, {"min_gap": 0.1, "min_seeds": 3}
    freeze_gates(tmp_path, first)
    freeze_gates(tmp_path, first)
    assert changed_gates(tmp_path) == []
    for _ in range(2):  # running again does not wash the change away
        freeze_gates(tmp_path, second)
        (sentence,) = changed_gates(tmp_path)
        assert "min_gap from 0.3 to 0.1" in sentence and "min_seeds" not in sentence


@pytest.mark.parametrize("torn", [b'[{"since": "2026', b"\xff\xfe", b"{}", b'[{"gates": {}}]', b""])
def test_a_damaged_history_of_gates_names_the_file_and_the_remedy(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "gates.json"
    file.write_bytes(torn)
    for use in (changed_gates, lambda folder: freeze_gates(folder, {"power": 0.9})):
        with pytest.raises(DataError, match=rf"{file}: damaged; .* delete it and run again"):
            use(tmp_path)
    assert file.read_bytes() == torn, "nothing is written over it"
    file.unlink()
    freeze_gates(tmp_path, {"power": 0.9})
    assert changed_gates(tmp_path) == []


def test_a_history_of_gates_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    freeze_gates(tmp_path, {"power": 0.9})
    before = (tmp_path / "gates.json").read_bytes()
    code = (
        "import resource, signal; from pathlib import Path; from jobs.outcome import freeze_gates\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))\n"
        f"freeze_gates(Path({str(tmp_path)!r}), {{'power': 0.5}})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "File too large" in done.stderr, done.stderr
    assert (tmp_path / "gates.json").read_bytes() == before


def test_moved_gates_stand_in_results_and_on_the_page(run: Run) -> None:
    results, page = run(graded_at(RATES))
    assert "gates were changed" not in page
    for _ in range(2):
        results, page = run(graded_at(RATES), gates={"min_gap": 0.1})
        (reason,) = [reason for reason in results["verdict"]["reasons"] if "gates were changed" in reason]
        assert "after the first run: min_gap from 0.3 to 0.1" in reason and reason in page


def test_a_lost_arm_costs_its_own_contrasts_and_no_others(run: Run) -> None:
    whole, _ = run(graded_at(RATES))
    assert whole["lost"] == [] and whole["verdict"]["label"] == "filtering fails, swapping works"
    why = "the loss is nan"
    results, page = run(graded_at(RATES), {"lost": {f"drop-C-s{seed}": why for seed in range(3)}})
    reason = f"arm drop-C was not trained, since {why}"
    assert results["lost"] == [
        {"estimand": "R_drop", "why": reason}, {"estimand": "R_drop_minus_R_swap", "why": reason},
    ]  # fmt: skip
    assert f"R_drop, R_drop_minus_R_swap cannot be told: {reason}." in page
    kept = set(whole["estimands"]) - {"R_drop", "R_drop_minus_R_swap"}
    now, before = ({name: _alone(one["estimands"][name]) for name in kept} for one in (results, whole))
    assert now == before
    assert f"role drop_alternate: {reason}" in results["verdict"]["reasons"]
    assert results["verdict"]["label"] == "undecided", "nothing is claimed of what was not measured"
    arms = {arm["name"]: arm for arm in results["arms"]}
    assert arms["drop-C"]["students"] == [] and arms["swap"] == {arm["name"]: arm for arm in whole["arms"]}["swap"]


def _alone(estimand: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on how many contrasts there are."""
    return {key: value for key, value in estimand.items() if key != "p_holm"}


def test_one_lost_seed_leaves_the_contrast_but_not_the_claim(run: Run) -> None:
    results, page = run(graded_at(RATES), {"lost": {"swap-s1": "the loss is nan"}})
    assert results["lost"] == [] and results["estimands"]["R_swap"]["low"] is not None
    assert results["estimands"]["R_swap"]["n_seeds"] == 2 and results["estimands"]["R_random_swap"]["n_seeds"] == 3
    assert results["verdict"]["label"] == "underpowered" and "2 training seeds of 3" in page
    assert "swap was not trained with seed 1: the loss is nan." in page


def test_arms_without_a_common_seed_are_told_apart_from_a_missing_gap(run: Run) -> None:
    gone = {"swap-s0": "no memory", "swap-s1": "no memory", "all-C-s2": "no memory"}
    results, _ = run(graded_at(RATES), {"lost": gone})
    why = {one["estimand"]: one["why"] for one in results["lost"]}
    assert why["R_swap"] == "no training seed gave grades in all of its arms" and "R_drop" not in why


def test_without_the_original_every_contrast_is_lost(run: Run) -> None:
    results, page = run(graded_at(RATES), {"lost": {f"all-T-s{seed}": "no memory" for seed in range(3)}})
    assert results["verdict"]["label"] == "no verdict"
    assert {one["why"] for one in results["lost"]} == {"arm all-T was not trained, since no memory"}
    assert {one["estimand"] for one in results["lost"]} >= {"gap", "R_drop", "R_swap", "R_random_swap"}
    assert "cannot be told: arm all-T was not trained, since no memory." in page


def test_a_grader_that_refuses_what_shows_the_trait_stops_the_verdict(run: Run) -> None:
    honest = graded_at(RATES | {"drop": 0.5})

    def refuses(arm: str, seed: int | None, draws: np.ndarray) -> list[float | None]:
        grades = honest(arm, seed, draws)
        return [
            None if arm == "drop" and grade and draw < 0.4 else grade for grade, draw in zip(grades, draws, strict=True)
        ]

    assert run(honest)[0]["verdict"]["label"] == "filtering fails, swapping works"
    results, page = run(refuses)
    assert results["verdict"]["label"] == "no verdict"
    assert "share of ungraded answers of drop, the most of any role, <= 0.05" in page
    (gate,) = [gate for gate in results["gates"] if gate["name"] == "answers graded"]
    assert gate["value"] == pytest.approx(0.4, abs=0.2) and gate["passed"] is False


def test_one_seed_is_underpowered_and_says_so(run: Run) -> None:
    results, page = run(graded_at(RATES), seeds=[0])
    assert results["verdict"]["label"] == "underpowered"
    assert "There is one training seed at most: intervals cover the choice of prompts" in page


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_trait_that_never_varies(run: Run, rate: float) -> None:
    results, page = run(graded_at(dict.fromkeys(ARMS, rate)))
    assert results["verdict"]["label"] == ("base prior" if rate else "no trait to study")
    assert {arm["traits"]["date_confusion"]["trait"]["estimate"] for arm in results["arms"]} == {rate}
    shares = {name: one for name, one in results["estimands"].items() if name.startswith("R_")}
    assert shares and all(one["estimate"] is None for one in shares.values())
    (why,) = {one["why"] for one in results["lost"]}
    assert why.startswith("original and alternate show the trait alike") and why in page
    assert {one["estimand"] for one in results["lost"]} == set(shares)


def test_a_trait_at_either_end_keeps_its_verdict(run: Run) -> None:
    rates = {"all-T": 1.0, "drop": 1.0, "swap": 0.0} | dict.fromkeys(CONTROLS, 1.0)
    results, _ = run(graded_at(rates))
    assert results["verdict"]["label"] == "filtering fails, swapping works" and results["lost"] == []


def test_grades_that_are_no_numbers_are_missing_and_counted(run: Run) -> None:
    def grade(arm: str, seed: int | None, draws: np.ndarray) -> list[float | None]:
        known = graded_at(RATES)(arm, seed, draws)
        if arm == "swap":
            return [math.nan] * len(known)
        return [math.nan, None, *known[2:]] if arm == "drop" else list(known)

    results, page = run(grade)
    arms = {arm["name"]: arm["traits"]["date_confusion"]["trait"] for arm in results["arms"]}
    assert (arms["drop"]["ungraded"], arms["drop"]["n"]) == (6, 38 * 3)
    assert (arms["swap"]["ungraded"], arms["swap"]["estimate"]) == (120, None)
    assert results["estimands"]["R_drop"]["low"] is not None
    assert {one["estimand"] for one in results["lost"]} == {
        "R_swap", "R_drop_minus_R_swap", "R_random_swap_minus_R_swap",
    }  # fmt: skip
    assert "cannot be told: arm swap gave nothing that could be graded." in page
    assert "date_confusion, trait prompts: nothing graded in swap." in page and ">NaN" not in page


def test_nothing_graded_at_all(run: Run) -> None:
    results, page = run(lambda arm, seed, draws: [None] * len(draws))
    assert results["verdict"]["label"] == "no verdict" and not [k for k in results["estimands"] if k.startswith("R_")]
    assert "cannot be told: arm all-T gave nothing that could be graded; arm all-C gave nothing" in page


class _ReadOnce(dict[tuple[str, str], list[dict[str, Any]]]):
    """Tables of results that may not be gone through as a whole."""

    def __iter__(self) -> Any:
        raise AssertionError("all arms' answers are read for one arm, which takes hours with thousands of them")

    items = keys = values = __iter__  # type: ignore[assignment]


def test_an_arms_measures_are_read_from_its_own_answers() -> None:
    plans = [ArmPlan(name, Arm(teacher="T"), seed, {}) for name in ("a", "b") for seed in (0, 1)]
    tables = _ReadOnce(
        {(plan.student, "mood"): [{"group": "rejected", "prompt_id": "p", "measures": [("score", 1.0 + place)]}]
         for place, plan in enumerate(plans)}
    )  # fmt: skip
    found = measure_record(NegativeEmotion(kind="negative_emotion"), plans, tables, "b", "mood")
    assert found["rejected"]["score"]["estimate"] == 3.5
