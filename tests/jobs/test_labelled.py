"""Scorers are checked against people's labels, and rates are put right for their mistakes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from jobs.kinds.score import Labels
from jobs.labelled import check_against_labels, labels_table
from sftfilter.errors import DataError
from sftfilter.report.formats import MISSING

LABELS = Labels(by="human", at_least=1, thresholds={"judge": 5})


def _table(folder: Path, labels: list[float | None]) -> Path:
    """Of 40 labelled rows half have the trait; the judge flags 18 of those and 4 of the others, and half of 60 more."""
    judge = [9.0] * 18 + [1.0] * 2 + [9.0] * 4 + [1.0] * 16 + [9.0, 1.0] * 30
    rows = {"teacher": ["T"] * 100, "human": labels, "judge": judge, "odd": [None] * 100, "flat": 3.0}
    pl.DataFrame(rows, schema_overrides={"human": pl.Float64, "odd": pl.Float64}).write_parquet(folder / "s.parquet")
    return folder / "s.parquet"


def test_sensitivity_specificity_and_the_corrected_rate(tmp_path: Path) -> None:
    table = _table(tmp_path, [1.0] * 20 + [0.0] * 20 + [None] * 60)
    found = check_against_labels(LABELS, ["human", "judge", "odd", "flat"], table)
    assert (found["labelled"], found["positive"]) == (40, 20)
    judge = found["scorers"]["judge"]
    assert judge["calibration"]["sensitivity"]["estimate"] == pytest.approx(0.9)
    assert judge["calibration"]["specificity"]["estimate"] == pytest.approx(0.8)
    rate = judge["rates"]["T"]
    assert rate["observed"]["estimate"] == 0.5 and rate["observed"]["n"] == 60
    assert rate["corrected"]["estimate"] == pytest.approx((0.5 + 0.8 - 1) / (0.9 + 0.8 - 1))
    assert rate["corrected"]["low"] < 3 / 7 < rate["corrected"]["high"]
    assert found["scorers"]["odd"]["calibration"] is None and "scored rows" in found["scorers"]["odd"]["note"]
    assert found["scorers"]["flat"]["calibration"] is None  # 0.5 would look like a finding
    console = Console(width=80, record=True)
    console.print(labels_table(found))
    shown = console.export_text()
    assert "90 % [70-97]" in shown
    assert next(line for line in shown.splitlines() if "flat" in line).split() == ["flat", *[MISSING] * 3]


def test_labels_of_one_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="40 rows have a label 'human', and 0 of them reach 1"):
        check_against_labels(LABELS, ["human", "judge"], _table(tmp_path, [0.0] * 40 + [None] * 60))
