"""The page of planted causes: the matrix as a grid and a table, right verdicts on the diagonal, every variation."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sftfilter.report.index import listed_runs
from sftfilter.report.worlds import write_worlds_page
from sftfilter.worlds.suite import Judged, Variation, confusion, shares, statuses
from tests.browser import Browser

SEEN: list[tuple[str, str, Judged]] = [
    ("1 simple generalisation", "underpowered", "undecided"),
    ("1 simple generalisation", "simple generalisation", "right"),
    ("2 subliminal learning", "subliminal learning", "right"),
    ("7 bad prompts", "<b>persona</b> selection", "wrong"),
]


def _results() -> dict[str, Any]:
    record = {"hypotheses": {"1": "supported", "7": "contradicted"}, "students": 90, "seconds": 61.0}
    done = [
        Variation("mild", planted, 200 + place, (1,), named, judged, ("3 supported",) * (judged == "wrong"), record)
        for place, (planted, named, judged) in enumerate(SEEN)
    ]
    return {
        "name": "planted",
        "kind": "worlds",
        "created": "2026-11-03T10:20:30+00:00",
        "seeds": {"tuned_on": [0, 1], "reported_on": [200], "these": [200, 201, 202, 203]},
        "shares": shares(done),
        "confusion": confusion(done),
        "statuses": {word: {"true": true, "of": of} for word, (true, of) in statuses(done).items()},
        "variations": [asdict(one) for one in done],
        "spec": {"kind": "worlds", "seeds": [0, 1, 2], "gates": {"min_seeds": 3}},
        "versions": {"torch": "2.9.1"},
        "spec_hash": "abc",
    }


def test_the_matrix_is_a_figure_and_a_table(tmp_path: Path) -> None:
    page = write_worlds_page(tmp_path, _results()).read_text()
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[0])
    grid = data["figures"]["confusion"]
    columns = ["simple generalisation", "subliminal learning", "underpowered"]
    assert [name.replace("<br>", " ") for name in grid["layout"]["xaxis"]["ticktext"][:3]] == columns
    assert "seeds 0, 1; these are" in page and "200 to 203" in page
    assert [line[place] for place, line in enumerate(grid["data"][0]["z"][:2])] == [0.5, 1.0]
    assert grid["data"][0]["text"][0] == ["1 of 2", "", "1 of 2", ""]
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", page, re.S)
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", line) for name, line in rows}
    assert cells["1 simple generalisation"] == ["1", "–", "1", "–", "1", "0", "1", "0"]
    assert cells["7 bad prompts"] == ["–", "–", "–", "1", "0", "0", "0", "1"]
    assert "<b>persona</b>" not in page and "2.9.1" in page and "<code>seeds</code></dt><dd>0, 1, 2</dd>" in page
    assert "<code>gates.min_seeds</code>" not in page
    assert data["variations"][3]["hypothesis 7"] == "contradicted"


def test_a_worlds_run_is_listed_with_its_kind(tmp_path: Path) -> None:
    results = _results()
    write_worlds_page(tmp_path / "planted" / "report", results)
    (tmp_path / "planted" / "worlds.json").write_text(json.dumps(results))
    (listed,) = listed_runs(tmp_path)
    assert (listed.kind, listed.created[:10], listed.spec_hash) == ("worlds", "2026-11-03", "abc")


@pytest.mark.parametrize("width", [1200, 400])
def test_browser_draws_the_matrix(browser: Browser, tmp_path: Path, width: int) -> None:
    browser.open(write_worlds_page(tmp_path, _results()), width)
    assert browser.problems() == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    texts = browser.run("[...document.querySelectorAll('#confusion .heatmap-label text')].map(one => one.textContent)")
    assert sorted(texts) == ["1 of 1", "1 of 1", "1 of 2", "1 of 2"]
    assert browser.run("document.querySelector('#confusion').clientWidth") >= 140 + 4 * 60
    assert "a cause named or denied falsely" in browser.run("document.body.innerText")
