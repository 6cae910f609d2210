"""The page of a sweep: a line an arm, numbers with intervals, and what keeps the best point from being believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sftfilter.report.sweep import write_sweep_page
from sftfilter.report.sweep_plots import sweep_plots
from tests.browser import Browser


def _row(arm: str, at_least: float, change: str, estimate: float | None, **more: Any) -> dict[str, Any]:
    around = {"low": None, "high": None} if estimate is None else {"low": estimate - 0.1, "high": estimate + 0.1}
    contrast = dict.fromkeys(("difference", "difference_low", "difference_high", "p", "q"))
    return {
        "point": f"at_least={at_least}, change={change}",
        "at_least": at_least,
        "change": change,
        "arm": arm,
        "role": "original" if arm == "all-T" else None,
        "rows_trained": 20,
        "rows_selected": 4,
        "trait": "doubt",
        "primary": True,
        "estimate": estimate,
        "n": 60,
        "broken": None,
        "problem": None,
        **around,
        **contrast,
        **more,
    }


def _results() -> dict[str, Any]:
    rows = []
    for change in ("drop", "swap"):
        for at_least, rate in ((1, 0.2), (2, 0.5), (300, None)):
            rows.append(_row("all-T", at_least, change, 0.8))
            compared = {"difference": -0.6, "difference_low": -0.7, "difference_high": -0.5, "p": 0.001, "q": 0.004}
            rows.append(_row("filter", at_least, change, rate, **(compared if rate == 0.2 else {})))
    rows[-1] |= {"problem": "<script>alert(1)</script> diverged"}
    return {
        "name": "s",
        "fields": {"selectors.flagged.at_least": "at_least", "arms.filter.intervention": "change"},
        "table": rows,
        "counts": {"points": 6, "arms": 12, "students": 6, "trained": 4, "reused": 1, "failed": 1},
        "students": {"all-T-s0.1": {"steps": 3, "first_loss": 2.0, "last_loss": 1.0, "seconds": 4.0}},
        "failed": {"filter-s0.2": "diverged"},
        "caveats": ["the winner's curse"],
        "spec": {"kind": "sweep"},
    }


def test_a_line_for_each_arm_and_other_setting() -> None:
    rows = _results()["table"]
    across, changes = sweep_plots(rows, ["at_least", "change"], "doubt", 0)
    names = [trace["name"] for trace in across.figure["data"]]
    assert names == ["all-T, change=drop", "filter, change=drop", "all-T, change=swap", "filter, change=swap"]
    assert across.figure["data"][1]["x"] == [1, 2], "a point without a rate is no mark"
    assert across.figure["layout"]["xaxis"]["type"] == "log" and changes.figure["layout"]["xaxis"]["type"] == "category"
    assert across.figure["data"][1]["error_y"]["array"] == pytest.approx([0.1, 0.1])
    assert "filter, change=drop: 20 % at 1, 50 % at 2" in across.alt
    drawn = [row | {"at_least": row["at_least"] + n / 100} for n, row in enumerate(rows * 3)]
    assert {t["mode"] for t in sweep_plots(drawn, ["at_least"], "doubt", 0)[0].figure["data"]} == {"lines+markers"}
    assert {t["mode"] for t in sweep_plots(drawn, ["change", "at_least"], "doubt", 0)[0].figure["data"]} == {"markers"}


@pytest.mark.parametrize("width", [1280, 360])
def test_browser_draws_the_page(browser: Browser, tmp_path: Path, width: int) -> None:
    page = write_sweep_page(tmp_path, _results())
    assert "<script>alert" not in page.read_text()
    browser.open(page, width)
    assert browser.problems() == []
    assert browser.run("document.querySelectorAll('.plot .main-svg:first-child').length") == 2
    assert browser.run("document.documentElement.scrollWidth") <= width
    text = browser.run("document.body.innerText")
    assert "the winner's curse" in text and "20 % [10-30], n = 60" in text and "−0.60 [−0.70, −0.50]" in text
    assert "diverged" in text and "4 trained now, 1 there before" in text
