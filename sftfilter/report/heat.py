"""A grid of shaded cells with their numbers in words: cells of a lattice, verdicts against planted causes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sftfilter.report.figures import INK, QUIET, Plot, plot, safe

SHADES = ("#edf3f7", "#84bbe0")
"""Of the least and the greatest value; ink is legible on every shade between them."""
_FRAME, _ROW, _COLUMN = 90, 58, 60
_WRAP = 20


class Shade(NamedTuple):
    """A cell: its value, None where it has none, and the lines that stand in it."""

    value: float | None
    lines: Sequence[str]


def heat(
    ident: str,
    alt: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Shade],
    most: float,
    titles: tuple[str, str],
) -> Plot:
    """The first row on top; a place without a cell stays empty.

    Args:
        cells: by row and column.
        most: the value of the darkest shade.
        titles: of the rows and of the columns.
    """
    import plotly.graph_objects as go

    found = [[cells.get((row, column)) for column in columns] for row in rows]
    trace = go.Heatmap(
        z=[[cell.value if cell else None for cell in line] for line in found],
        x=list(range(len(columns))),
        y=list(range(len(rows))),
        text=[[_text(cell) for cell in line] for line in found],
        texttemplate="%{text}",
        textfont={"color": INK, "size": 12},
        colorscale=[[0, SHADES[0]], [1, SHADES[1]]],
        zmin=0,
        zmax=most,
        showscale=False,
        hoverinfo="skip",
        xgap=2,
        ygap=2,
    )
    unmeasured = [
        {"x": x, "y": y, "text": _text(cell), "showarrow": False, "font": {"size": 11, "color": QUIET}}
        for y, line in enumerate(found)
        for x, cell in enumerate(line)
        if cell and cell.value is None
    ]
    layout = {
        "height": _FRAME + _ROW * len(rows),
        "annotations": unmeasured,
        "xaxis": _axis(columns, titles[1]) | {"side": "top"},
        "yaxis": _axis(rows, titles[0]) | {"autorange": "reversed"},
        "margin": {"l": 20, "r": 8, "t": 30, "b": 8},
        "meta": {"least_width": 140 + _COLUMN * len(columns)},
    }
    return plot(ident, alt, [trace], layout)


def _axis(names: Sequence[str], title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": 13, "color": QUIET}, "standoff": 10},
        "tickvals": list(range(len(names))),
        "ticktext": ["<br>".join(textwrap.wrap(safe(name, 60), _WRAP, break_on_hyphens=False)) for name in names],
        "automargin": True,
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
    }


def _text(cell: Shade | None) -> str:
    return "<br>".join(map(safe, cell.lines)) if cell else ""
