"""Scorers against people's labels: how often each is right, and trait rates put right for its mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from jobs.kinds.score import Labels
from jobs.score_tables import plain_table
from sftfilter.errors import DataError
from sftfilter.report.formats import MISSING

if TYPE_CHECKING:
    import polars as pl


def check_against_labels(labels: Labels, scorers: Sequence[str], table: Path) -> dict[str, Any]:
    """Every other scorer against the labels.

    Args:
        table: scores.parquet, a row for each rollout and a column for each scorer.

    Returns:
        labelled: rows with a label, of them positive; scorers: name -> `calibration` (see `calibration.calibrate`;
        without a threshold only auroc and auprc) and `rates`, teacher -> the rate among the rows without a label.

    Raises:
        DataError: the labels are all of one kind, or there are none.
    """
    import polars as pl

    rows = pl.scan_parquet(table, glob=False).select("teacher", *scorers).collect()
    marked = rows.filter(pl.col(labels.by).is_not_null())
    truth = (marked[labels.by] >= labels.at_least).cast(pl.Int8)
    if truth.n_unique() < 2:
        raise DataError(
            f"labels: {len(marked)} rows have a label '{labels.by}', and {int(truth.sum() or 0)} of them reach {labels.at_least:g}: "
            "labels of both kinds are needed"
        )
    rest = rows.filter(pl.col(labels.by).is_null())
    found = {name: _check(name, labels, marked, truth, rest) for name in scorers if name != labels.by}
    return {"by": labels.by, "labelled": len(marked), "positive": int(truth.sum()), "scorers": found}


def _check(name: str, labels: Labels, marked: pl.DataFrame, truth: pl.Series, rest: pl.DataFrame) -> dict[str, Any]:
    from dataclasses import asdict

    import numpy as np

    from sftfilter.calibration import auprc, auroc, calibrate, corrected_prevalence

    scores = marked[name].cast(float).fill_null(np.nan).to_numpy()
    if marked[name].drop_nulls().n_unique() == 1:
        return {"calibration": None, "note": "every labelled row has the same score", "rates": {}}
    threshold = labels.thresholds.get(name)
    try:
        if threshold is None:
            curves = {"auroc": asdict(auroc(scores, truth)), "auprc": asdict(auprc(scores, truth))}
            return {"calibration": curves, "rates": {}}
        made = calibrate(scores, truth, threshold)
    except DataError as error:
        return {"calibration": None, "note": str(error), "rates": {}}
    rates = {}
    for teacher in rest["teacher"].unique(maintain_order=True):
        own = rest.filter(rest["teacher"] == teacher)[name].drop_nulls()
        flagged = int((own >= threshold).sum())
        rates[teacher] = corrected_prevalence(flagged, len(own), made.sensitivity, made.specificity).as_dict()
    return {"calibration": made.as_dict(), "rates": rates}


def labels_table(checked: Mapping[str, Any]) -> Table:
    """A line for each scorer, and one for each teacher's corrected rate, 80 columns wide."""
    table = plain_table(
        f"Against the labels '{checked['by']}' ({checked['positive']:,} of {checked['labelled']:,} rows positive)"
    )
    table.add_column("scorer, teacher", max_width=20, no_wrap=True)
    for heading in ("AUROC", "sensitivity", "specificity", "flagged", "corrected"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in checked["scorers"].items():
        table.add_row(name, *_measures(found["calibration"]), "", "")
        for teacher, rate in found["rates"].items():
            table.add_row(f"  {teacher}", "", "", "", _percent(rate["observed"]), _percent(rate["corrected"]))
    return table


def _measures(calibration: Mapping[str, Any] | None) -> Iterator[str]:
    if calibration is None:
        yield from (MISSING,) * 3
        return
    area = calibration["auroc"]["estimate"]
    yield MISSING if area is None else f"{area:.2f}"
    yield _percent(calibration.get("sensitivity"))
    yield _percent(calibration.get("specificity"))


def _percent(share: Mapping[str, Any] | None) -> str:
    if share is None or share["estimate"] is None:
        return MISSING
    return f"{100 * share['estimate']:.0f} % [{100 * share['low']:.0f}-{100 * share['high']:.0f}]"
