"""The page of a sweep: rates against what was swept, every number in a table, and how far to believe the best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.frame import asked, frame_of
from sftfilter.report.shell import write_page
from sftfilter.report.sweep_plots import sweep_plots
from sftfilter.report.tables import Cell, Table, table_of


def write_sweep_page(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write `folder/index.html` and return its path.

    Args:
        results: as in results.json of a sweep.
    """
    found = f.clean(results)
    columns = list(f.part(found, "fields").values())
    rows = [row for row in f.items(found, "table") if row["primary"]]
    traits = []
    for number, trait in enumerate(dict.fromkeys(row["trait"] for row in rows)):
        own = [row for row in rows if row["trait"] == trait]
        traits.append({"name": trait, "plots": sweep_plots(own, columns, trait, number), "table": _rates(own, trait)})
    counts = f.part(found, "counts")
    size = {"label": "points", "value": f.count(counts.get("points")), "note": asked(counts)}
    view = frame_of(found, "sweep", size) | {"traits": traits}
    plots = [one for trait in traits for one in trait["plots"]]
    return write_page(folder / "index.html", "sweep.html.j2", "sweep.js.j2", view, {"rows": found["table"]}, plots)


def _rates(rows: list[dict[str, Any]], trait: str) -> Table:
    columns = ["point", "arm", "rows", f"shows {trait}", "minus the original", "q"]
    shown = [
        [
            row["point"],
            Cell(row["arm"], note=row["role"] or ""),
            Cell(f.count(row["rows_trained"]), note=_chosen(row)),
            Cell(f.rate_text(row), note=row["broken"] or row["problem"] or ""),
            _difference(row),
            "" if row["q"] is None else f.short_number(row["q"]),
        ]
        for row in rows
    ]
    return table_of(f"{trait}, every point and arm", columns, shown, (2, 5), (3, 4))


def _chosen(row: Mapping[str, Any]) -> str:
    return f"{f.count(row['rows_selected'])} selected" if row.get("rows_selected") is not None else ""


def _difference(row: Mapping[str, Any]) -> str:
    value, low, high = (row[key] for key in ("difference", "difference_low", "difference_high"))
    if value is None:
        return ""
    if row["p"] is None and low == high:
        return "the same students"
    return f.interval_text({"estimate": value, "low": low, "high": high})
