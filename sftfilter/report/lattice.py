"""The page of a lattice: its verdict, every cell with its reading, the curves of its interpolation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report import tables, words
from sftfilter.report.frame import asked, frame_of
from sftfilter.report.gaps import lost
from sftfilter.report.lattice_plots import MODES, cells_plot, interpolation_plots
from sftfilter.report.published import of_rows, published_table
from sftfilter.report.shell import write_page
from sftfilter.report.tables import Cell, Table, table_of

_STYLES = {"present": "bad", "absent": "good", "unclear": "unknown"}


def write_lattice_page(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write `folder/index.html` and return its path.

    Args:
        results: as in results.json of a lattice.
    """
    found = f.clean(results)
    counts, verdict = f.part(found, "counts"), f.part(found, "verdict")
    size = {"label": "cells", "value": f.count(counts.get("cells")), "note": asked(counts)}
    cells, steps = f.items(found, "cells"), f.items(found, "interpolation")
    traits = [_trait(cells, steps, trait, n) for n, trait in enumerate(dict.fromkeys(row["trait"] for row in cells))]
    view = frame_of(found, "lattice", size) | {
        "verdict": {key: verdict.get(key) for key in ("label", "summary", "reasons", "next")},
        "traits": traits,
        "lost": lost(found),
        "steps": bool(steps),
        "published_table": published_table(f.items(found, "published"), of_rows(cells + steps)),
        "hypotheses_table": tables.hypotheses(f.items(verdict, "hypotheses")),
        "gates_table": tables.gates(f.items(found, "gates")),
        "estimands_table": tables.estimands(f.part(found, "estimands")),
    }
    plots = [one for trait in traits for one in (trait["grid"], *trait["plots"])]
    data = {"cells": cells, "interpolation": steps}
    return write_page(folder / "index.html", "lattice.html.j2", "lattice.js.j2", view, data, plots)


def _trait(cells: list[Any], steps: list[Any], trait: str, number: int) -> dict[str, Any]:
    own, points = ([row for row in rows if row["trait"] == trait and row["primary"]] for rows in (cells, steps))
    return {
        "name": trait,
        "grid": cells_plot(own, trait, number),
        "cells": _cells(own, trait),
        "steps": _steps(points, trait),
        "plots": interpolation_plots(points, trait, number),
    }


def _cells(rows: list[Any], trait: str) -> Table:
    shown = [
        [
            Cell(row["cell"], note=words.role_words(row["role"])),
            row["base"],
            row["prompts"],
            row["teacher"],
            Cell(f.count(row["rows_trained"]), note=row["broken"] or row["problem"] or ""),
            f.rate_text(row),
            Cell(row["word"] or f.MISSING, _STYLES.get(row["word"], ""), note=row["reading"] or ""),
        ]
        for row in rows
    ]
    columns = ["cell", "base", "prompts", "teacher", "rows", f"shows {trait}", "trait, and what that says"]
    return table_of(f"{trait}, every cell", columns, shown, (4,), (5,))


def _steps(rows: list[Any], trait: str) -> Table | None:
    shown = [
        [
            Cell(MODES[row["mode"]], note=row["broken"] or row["problem"] or ""),
            f.percent(row["fraction"]),
            f.percent(row["f"]),
            f.rate_text(row),
            f.rate_text({key: row[f"control_{key}"] for key in ("estimate", "low", "high")}),
            f.percent(row["dilution"]),
        ]
        for row in rows
    ]
    columns = ["subset", "fraction of it", "rows changed", f"shows {trait}", "random prompts", "dilution line"]
    return table_of(f"{trait}, every point", columns, shown, (1, 2, 5), (3, 4)) if rows else None
