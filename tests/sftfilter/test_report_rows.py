"""Rows on the page and beside it: filters, nearest evaluation prompts, samples of large runs, whole tables in files."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sftfilter.report import write_report
from sftfilter.report.nearest import nearest
from sftfilter.report.sampled import MOST, heldout_labels, sample, training_labels
from tests.benchmarks.report_page import LIMIT_MB, ROWS, heldout, results, training
from tests.browser import Browser
from tests.sftfilter.test_report import ARMS, Page, sample_heldout, sample_results, sample_rows

THRESHOLDS = {"lexicon": 0.99, "probe": None}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"), sample_results(), sample_rows(), sample_heldout())


def _labels(rows: Any) -> dict[Any, int]:
    counted: dict[Any, int] = {}
    for row in rows:
        for label in training_labels(THRESHOLDS)(row):
            counted[label] = counted.get(label, 0) + 1
    return counted


def test_a_sample_holds_some_of_everything_and_is_the_same_in_any_order() -> None:
    rows = training(12_001)
    found = sample(rows, training_labels(THRESHOLDS))
    assert len(found.rows) == MOST and found.of == 12_001 and not found.whole and found.least > 1
    run, held = _labels(rows), _labels(found.rows)
    assert {label: min(count, found.least) for label, count in run.items()} == {
        label: min(held.get(label, 0), found.least) for label in run
    }
    assert held["kind", "rare"] == run["kind", "rare"] == 1
    assert held["flagged", "lexicon", True] == run["flagged", "lexicon", True] == 12
    shuffled = random.Random(3).sample(rows, len(rows))
    again = sample(shuffled, training_labels(THRESHOLDS))
    assert {row["prompt_id"] for row in again.rows} == {row["prompt_id"] for row in found.rows}
    assert [row["prompt_id"] for row in found.rows] == sorted(row["prompt_id"] for row in found.rows)


def test_long_rows_make_for_fewer_of_them_and_few_rows_are_all_held() -> None:
    few = sample(training(300), training_labels(THRESHOLDS))
    assert few.whole and len(few.rows) == 300
    long = [row | {"prompt": "a long prompt " * 3000} for row in training(600)]
    held = sample(long, training_labels(THRESHOLDS))
    assert 100 < len(held.rows) < 250 and held.least >= 1
    questions = sample([row | {"prompt": "x" * 90_000} for row in heldout(200)], heldout_labels)
    assert not questions.whole and {row["group"] for row in questions.rows} == {"trait", "control"}


def test_a_large_page_says_what_it_holds_and_the_whole_lies_beside_it(tmp_path: Path) -> None:
    path = write_report(tmp_path, results(), training(5000), heldout(20))
    page = Page(path)
    assert len(page.data()["rows"]) == MOST
    assert "This page holds 4 000 of the run's 5 000 rows" in page.text
    assert ("a", {"href": "rows.parquet", "download": None}) in page.tags
    assert pl.read_parquet(tmp_path / "rows.parquet").height == 5000
    assert "decision in some arm: drop 1 1" in page.text and "kind date 2 500" in page.text


@pytest.mark.slow
def test_a_page_of_100_000_rows_is_small_and_complete(browser: Browser, tmp_path: Path) -> None:
    rows = training(ROWS)
    path = write_report(tmp_path, results(), rows, heldout(500))
    assert path.stat().st_size < LIMIT_MB * 1e6
    held = Page(path).data()["rows"]
    assert set(_labels(rows)) == set(_labels(held)) and len(held) == MOST
    table = pl.read_parquet(tmp_path / "rows.parquet")
    assert table["prompt_id"].to_list() == [row["prompt_id"] for row in rows]
    assert table["decision:arm-3"].to_list() == [row["decisions"]["arm-3"] for row in rows]
    browser.open(path)
    assert browser.problems() == []
    assert browser.run("document.getElementById('rows-status').textContent") == f"{MOST} of {MOST} training prompts"


def test_files_hold_what_the_page_holds(small: Path) -> None:
    rows, answers, arms = (pl.read_parquet(small.parent / f"{name}.parquet") for name in ("rows", "heldout", "arms"))
    wanted = sample_rows()
    assert rows.columns[:6] == ["prompt_id", "kind", "source", "prompt", "answer:T", "answer:C"]
    assert rows["score:probe"].to_list() == [row["scores"]["probe"] for row in wanted]
    assert rows["decision:swap-s"].to_list() == [row["decisions"]["swap-s"] for row in wanted]
    assert rows["grade:C"].null_count() == sum(row["grades"]["C"] is None for row in wanted) > 0
    assert answers.height == 60 * len(ARMS) and answers["student"].n_unique() == len(ARMS)
    assert arms.filter(pl.col("group") == "trait")["estimate"].to_list() == [rate for _, _, rate, _, _ in ARMS]


def test_files_hold_whatever_models_write(tmp_path: Path) -> None:
    odd = {
        "prompt_id": "p",
        "prompt": "half \ud83d a pair",
        "answers": {"T": {"parts": [1]}, "C": 7},
        "grades": {"T": "A"},
    }
    write_report(tmp_path, {}, [odd, {}], [{"prompt_id": "h", "answers": {"x": "plain"}}])
    rows = pl.read_parquet(tmp_path / "rows.parquet")
    assert rows["prompt"].to_list() == ["half ? a pair", None] and rows["grade:T"].to_list() == ["A", None]
    assert json.loads(rows["answer:T"][0]) == {"parts": [1]}
    write_report(tmp_path, {}, [], [])
    assert not (tmp_path / "rows.parquet").exists(), "a file of an earlier page would be taken for this one's"


def test_nearest_prompts_are_those_that_share_rare_parts() -> None:
    questions = ["Which herons nest by the river?", "How old is someone born in 1990?", "今年は何年ですか", "zzz"]
    found = nearest(["Tell me about herons", "I was born in 1990: how old am I?", "今年は何年", "", "qqq"], questions)
    assert [places[0][0] if places else None for places in found] == [0, 1, 2, None, None]
    assert all(a[1] >= b[1] > 0 for places in found for a, b in itertools.pairwise(places))
    assert nearest(["a prompt"], []) == [[]] and nearest(["", " "], ["x"]) == [[], []]


def _set(browser: Browser, **values: str) -> str:
    for name, value in values.items():
        target = f"document.getElementById('rows-{name}')"
        browser.run(
            f"{target}.value = {json.dumps(value)}; for (const event of ['input', 'change']) {target}.dispatchEvent(new Event(event))"
        )
    return browser.run("document.getElementById('rows-status').textContent")


def test_browser_filters_by_score_and_source(browser: Browser, small: Path) -> None:
    browser.open(small)
    rows = sample_rows()
    scored = [row for row in rows if row["scores"]["lexicon"] is not None]
    assert _set(browser, scorer="lexicon") == f"{len(scored)} of 200 training prompts", (
        "a row without a score passes no bound"
    )
    high = [row for row in rows if row["scores"]["probe"] >= 1.5]
    assert _set(browser, scorer="probe", bound="least", score="1.5") == f"{len(high)} of 200 training prompts"
    low = [row for row in rows if row["scores"]["probe"] <= -0.5]
    assert _set(browser, bound="most", score="-0.5") == f"{len(low)} of 200 training prompts"
    both = [row for row in low if row["source"] == "part-2"]
    assert _set(browser, source="part-2") == f"{len(both)} of 200 training prompts" and 0 < len(both) < len(low)
    browser.open(small, fragment="#scorer=probe&bound=most&score=-0.5&source=part-2")
    assert browser.run("document.getElementById('rows-status').textContent") == f"{len(both)} of 200 training prompts"


def test_browser_shows_students_answers_to_the_nearest_prompts(browser: Browser, tmp_path: Path) -> None:
    rows, asked = sample_rows(3), sample_heldout(9)
    rows[1]["prompt"] = "An otter asks how wide the estuary is."
    asked[7]["prompt"] = "How wide is the estuary, asked the otter?"
    results = sample_results()
    for arm in results["arms"]:
        arm["students"] = [f"{arm['name']}-s0"]
    for row in asked:
        row["answers"] = {f"{name}-s0": one for name, one in row["answers"].items()}
    path = write_report(tmp_path, results, rows, asked)
    browser.open(path)
    first = "document.querySelectorAll('#rows-list article')[1].querySelector('details.near')"
    assert browser.run(f"{first}.children.length") == 1
    browser.run(f"{first}.querySelector('summary').click()")
    browser.run("new Promise(done => setTimeout(() => done(1), 100))")
    told = browser.run(f"{first}.innerText")
    assert told.index("h007 · adjacent · TF-IDF cosine") < told.index("How wide is the estuary, asked the otter?")
    names = browser.run(
        f"[...{first}.querySelector('.answers').querySelectorAll('h4 > span:first-child')].map(s => s.textContent)"
    )
    assert sorted(names) == ["all-alternate-s0", "all-original-s0", "drop-s-s0", "swap-s-s0"]
    assert browser.problems() == []
