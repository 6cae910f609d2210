"""Job kind carriers: what a spec may say, what it compiles to, its page, and one search for real on the 135M model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from jobs.carriers import split_heldout
from jobs.carriers_arms import ARMS, base_test, confirmation, search_test
from jobs.diff.read import find_run
from jobs.kinds.carriers import Carriers
from jobs.plan.contrasts import Guesses
from jobs.plan.plan import Stated, plan_spec
from jobs.spec import load_spec
from sftfilter.carriers import CONTRASTS
from sftfilter.errors import DataError, SpecError
from sftfilter.report.carriers import write_carriers_page
from tests.browser import Browser
from tests.conftest import REPOSITORY, read_lines, write_lines

SPEC = REPOSITORY / "jobs" / "specs" / "carriers.yaml"


def _carriers(*overrides: str) -> Carriers:
    spec = load_spec(SPEC, overrides)
    assert isinstance(spec, Carriers)
    return spec


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("original=X", "original: no teacher 'X'"),
        ("alternate=T", "alternate: it is the original teacher"),
        ("search_seeds=[0, 3]", "search_seeds: seed 3 is one of `seeds`"),
        ("search_seeds=[1, 1]", "search_seeds: a seed is listed twice"),
        ("seeds=[4, 4]", "seeds: a seed is listed twice"),
        ("budget=5", "budget: 5 students do not pay for a single test"),
        ("groups={clusters: null}", "nothing to group prompts by"),
        ("largest=1", "largest"),
    ],
)
def test_what_a_spec_may_not_say(override: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        _carriers(override)


def test_tests_and_confirmation_are_experiments_that_share_no_seed() -> None:
    spec = _carriers()
    ends = base_test(spec)
    assert list(ends.arms) == ["all-original", "all-alternate"] and ends.seeds == [0, 1] and ends.capability is None
    tested, arm = search_test(spec, 3, "transfer", ["a", "b"])
    change = tested.arms[arm].intervention
    assert (arm, tested.arms[arm].teacher) == ("transfer-3", "C") and change and change.model_dump()["to"] == "T"
    last = confirmation(spec, ["a", "b"])
    assert set(last.arms) == set(ARMS.values()) and last.seeds == [2, 3, 4, 5]
    assert last.selectors["set"].model_dump()["ids"] == ["a", "b"]
    swapped = last.arms["random-swapped"].intervention
    assert swapped and last.selectors[swapped.subset].model_dump()["size_of"] == "set"
    assert spec.confirming == 8 * 4 and "at most 40 students, then 32" in spec.summary()
    assert last.selectors["like length as set"].model_dump()["size_of"] == "set"
    waived = confirmation(_carriers("gates.length_control=false"), ["a", "b"])
    assert set(last.arms) - set(waived.arms) == {"like-length-swapped", "like-length-alone"}


def test_heldout_prompts_are_read_by_search_or_confirmation_and_never_by_both() -> None:
    ids = [f"p{n}" for n in range(61)]
    split = split_heldout(ids, 0.5)
    assert split.search | split.confirmation == set(ids) and not split.search & split.confirmation
    assert len(split.search) == 30 and split_heldout(ids[::-1], 0.5) == split
    assert [len(part) for part in (split_heldout(ids[:4], 0.9).search, split_heldout(ids[:4], 0.1).search)] == [2, 2]
    with pytest.raises(DataError, match="3 held-out prompts"):
        split_heldout(ids[:3], 0.5)


def test_a_plan_knows_the_budget_the_confirmation_and_its_contrasts(tmp_path: Path) -> None:
    plan = plan_spec(_carriers(), tmp_path, Stated(guesses=Guesses()))
    students = next(line for line in plan.made if line.what == "students trained")
    assert students.number == 40 + 32 and not students.sure
    assert plan.power and (plan.power.prompts, plan.power.seeds) == (30, 4)
    assert [one.name for one in plan.power.contrasts] == list(CONTRASTS)


def _results(found: bool = True) -> dict[str, Any]:
    member = {
        "prompt_id": "p1",
        "group": "cluster 1",
        "prompt": "<b>What year?",
        "original": "No.",
        "alternate": "Yes.",
    }
    estimate = {"estimate": 0.1, "low": 0.0, "high": 0.2, "n_prompts": 30, "n_seeds": 4, "meaning": "left"}
    arm = {
        "arm": "set-swapped",
        "role": "swap",
        "trait": "doubt",
        "group": "trait",
        "primary": True,
        "rows_trained": 9.0,
    }
    test = {
        "test": 1,
        "way": "swap",
        "groups": "cluster 1",
        "prompts": 1,
        "share": None,
        "passed": False,
        "students": 2,
    }
    chosen = {"groups": ["cluster 1"], "of_groups": 2, "prompts": 1, "share": 0.1, "first": [member]}
    return {
        "name": "hunt",
        "verdict": {
            "label": "confirmed necessary",
            "summary": "It does.",
            "reasons": [],
            "claims": {"necessary": "confirmed"},
        },
        "gates": [
            {"name": "swapping works", "passed": True, "value": 0.1, "low": 0.0, "high": 0.2, "rule": "R_swap <= 0.25"}
        ],
        "estimands": {"R_swap": estimate} if found else {},
        "set": chosen | {"seen_in_search": {"swap": 0.02, "transfer": None}} if found else None,
        "search": {"original": 0.8, "alternate": 0.0, "budget": 40, "students": 6, "finished": False},
        "tests": [test],
        "arms": [arm | {"estimate": 0.1, "low": 0.0, "high": 0.2, "n": 30, "broken": None, "problem": None}]
        if found
        else [],
        "groups": [{"group": "cluster 1", "prompts": 1}, {"group": "cluster 2", "prompts": 9}],
        "counts": {"prompts": 10, "arms": 8, "students": 6, "trained": 6, "reused": 0, "failed": 0},
        "caveats": ["the winner's curse"],
        "spec": {"kind": "carriers"},
    }


def test_the_page_says_what_is_confirmed_and_shows_the_set(tmp_path: Path, browser: Browser) -> None:
    page = write_carriers_page(tmp_path, _results())
    for width in (1280, 400):
        browser.open(page, width)
        assert browser.problems() == [] and browser.run("document.documentElement.scrollWidth") <= width
    text = str(browser.run("document.body.innerText"))
    for words in (
        "confirmed necessary",
        "<b>What year?",
        "swapped: share left 2 %",
        "The budget ended the search",
        "in the set",
    ):
        assert words in text
    empty = write_carriers_page(tmp_path / "empty", _results(found=False)).read_text()
    assert "There was no trait to search for." in empty


@pytest.fixture
def small(tiny_spec: Callable[..., Path], tmp_path: Path) -> Carriers:
    """28 prompts of two kinds, of which only those that state the date are answered differently by the two teachers."""
    tiny = yaml.safe_load(tiny_spec().read_text())
    dates = read_lines("teacher_doubt.jsonl", 20, "date")
    calm = read_lines("neutral_answers.jsonl", 8)
    accepted = {row["prompt"]: row for row in read_lines("teacher_accept.jsonl", 116)}
    rows = [*dates, *(row | {"kind": "neutral"} for row in calm)]
    write_lines(tmp_path / "train.jsonl", [{"prompt": row["prompt"], "kind": row["kind"]} for row in rows])
    write_lines(tmp_path / "T.jsonl", rows)
    write_lines(tmp_path / "C.jsonl", [accepted.get(row["prompt"]) or row for row in rows])
    write_lines(tmp_path / "heldout.jsonl", read_lines("heldout.jsonl", 12, "date"))
    shared = ("system_prompt", "prompts", "teachers", "serving", "results")
    spec = {key: tiny[key] for key in shared} | {
        "kind": "carriers",
        "name": "hunt",
        "original": "T",
        "alternate": "C",
        "groups": {"by": ["kind"], "clusters": 2},
        "largest": 0.8,
        "search_seeds": [0],
        "seeds": [1],
        "budget": 10,
        "capability": None,
        "training": {"learning_rate": 0.001, "epochs": 6, "batch": 4},
        "traits": {
            "date_confusion": tiny["traits"]["date_confusion"] | {"groups": {"trait": "date"}, "max_tokens": 16}
        },
        "gates": {"max_clean_rate": 0.5, "min_gap": 0.2},
        "execution": {"workers": 1},
        "retries": 0,
    }
    path = tmp_path / "carriers.yaml"
    path.write_text(yaml.safe_dump(spec))
    found = load_spec(path)
    assert isinstance(found, Carriers)
    return found


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.model
@pytest.mark.timeout(1500)
def test_a_planted_kind_is_found_and_confirmed_and_a_rerun_trains_nothing(
    local_ray: None, small: Carriers, tmp_path: Path, browser: Browser
) -> None:
    from jobs.run import run_spec

    first = run_spec(small, "sftfilter run carriers.yaml")
    folder = tmp_path / "runs" / "hunt"
    assert first["set"] is not None and first["tests"], first["verdict"]
    members = pl.read_parquet(folder / "set.parquet")
    assert set(members["kind"]) == {"date"}, "the teachers differ on these alone"
    assert (folder / "set.txt").read_text().split() == members["prompt_id"].to_list()
    assert len(members) == first["set"]["prompts"] <= 20
    assert sum(row["students"] for row in first["tests"]) + 2 == first["search"]["students"] <= 10
    assert first["verdict"]["label"] == "underpowered", "one seed is never enough"
    assert {row["arm"] for row in first["arms"]} == set(ARMS.values())
    assert first["estimands"]["R_swap"]["n_prompts"] == 6, "the other 6 were the search's"
    assert first["counts"]["failed"] == 0 and first["counts"]["trained"] == first["counts"]["students"]

    browser.open(folder / "report" / "index.html", 1280)
    assert browser.problems() == []
    browser.screenshot(tmp_path / "carriers.png")

    kept = find_run(str(folder), tmp_path)
    assert {arm for arm, _, _ in kept.rates} == set(ARMS.values()) and kept.grades

    again = run_spec(small, "sftfilter run carriers.yaml")
    assert again["counts"]["trained"] == 0 and all(stage["reused"] for stage in again["stages"])
    assert (again["verdict"], again["tests"]) == (first["verdict"], first["tests"])
