"""What all plots share: palette, layout, and rows whose labels move above the marks on a narrow screen."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sftfilter.report.formats import short

PALETTE = ("#0072B2", "#D55E00", "#007A5A", "#A64D84", "#8A6A00", "#2E4A62", "#3E9BD0", "#5B6470")
"""Okabe and Ito's colours, darkened where needed to stand out against white."""

INK, QUIET, GRID = "#1d2733", "#566270", "#e6e9ec"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
ROW, FRAME = 44, 104
"""Pixels of a labelled row on a wide screen, and of axis and legend around all rows."""


@dataclass(frozen=True)
class Plot:
    """A figure for the page and the words that stand in for it."""

    ident: str
    alt: str
    figure: dict[str, Any]

    @property
    def height(self) -> int:
        """Pixels to reserve before it is drawn, so that the page does not jump."""
        return int(self.figure["layout"].get("height", 360))

    @property
    def width(self) -> int:
        """Pixels below which it scrolls instead of shrinking; 0 for one that fits any screen."""
        return int(self.figure["layout"].get("meta", {}).get("least_width", 0))


@dataclass(frozen=True)
class Label:
    """What stands beside a row of marks."""

    text: str
    tag: str = ""


def safe(text: Any, length: int = 200) -> str:
    """Text for plotly, which reads labels as a small subset of HTML."""
    return html.escape(short(str(text), length), quote=False)


def plot(ident: str, alt: str, traces: Sequence[Any], layout: Mapping[str, Any]) -> Plot:
    """A checked figure as plain JSON."""
    import plotly.graph_objects as go

    base = {
        "template": "none",
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "dragmode": False,
        "hoverlabel": {"bgcolor": INK, "bordercolor": INK, "font": {"color": "white", "size": 13, "family": FONT}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "yref": "paper"},
        "margin": {"l": 56, "r": 16, "t": 40, "b": 48},
    }
    figure = go.Figure(data=list(traces), layout={**base, **layout})
    return Plot(ident, alt, json.loads(figure.to_json() or "{}"))


def axis(title: str, percent: bool = False, **more: Any) -> dict[str, Any]:
    """A quiet axis."""
    found = {
        "title": {"text": title, "font": {"size": 13, "color": QUIET}, "standoff": 8},
        "gridcolor": GRID,
        "zerolinecolor": "#b9c0c7",
        "zeroline": True,
        "fixedrange": True,
        "tickfont": {"color": QUIET},
    }
    return {**found, **({"tickformat": ".0%"} if percent else {}), **more}


def labelled_rows(labels: Sequence[Label], lines: int = 1, narrow_row: int = 60) -> dict[str, Any]:
    """Layout of one row per label, the first on top; `meta` says what changes between wide and narrow screens.

    Args:
        lines: of legend that a narrow screen needs above the plot; 0 for a plot without legend.
        narrow_row: pixels of a row on a narrow screen, label included.
    """
    texts = [safe(label.text, 30) for label in labels]
    ticks = [
        f"{text}<br><span style='font-size:11px;color:{QUIET}'>{safe(label.tag, 34)}</span>" if label.tag else text
        for text, label in zip(texts, labels, strict=True)
    ]
    above = [
        {
            "text": f"<b>{text}</b>" + (f"  <span style='color:{QUIET}'>{safe(label.tag, 34)}</span>" if label.tag else ""),
            "x": 0, "xref": "paper", "xanchor": "left", "y": row - 0.42, "yanchor": "middle",
            "showarrow": False, "visible": False, "font": {"size": 12}, "bgcolor": "rgba(255,255,255,.88)", "borderpad": 0,
        }
        for row, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]  # fmt: skip
    top = 16 + 28 * min(lines, 1)
    wide, narrow = FRAME + ROW * len(labels), FRAME + 20 * (lines - 1) + narrow_row * len(labels)
    return {
        "height": wide,
        "annotations": above,
        "yaxis": {
            "tickvals": list(range(len(labels))), "ticktext": ticks, "range": [len(labels) - 0.45, -0.62], "ticklabelstandoff": 8,
            "automargin": True, "fixedrange": True, "gridcolor": "#f1f3f4", "zeroline": False, "ticks": "",
        },
        "margin": {"l": 20, "r": 16, "t": top, "b": 52},
        "meta": {
            "wide": _fit(len(labels), True, wide, top),
            "narrow": _fit(len(labels), False, narrow, 20 + 22 * lines),
        },
    }  # fmt: skip


def _fit(rows: int, wide: bool, height: int, top: int) -> dict[str, Any]:
    labels = {f"annotations[{row}].visible": not wide for row in range(rows)}
    return {"height": height, "margin.t": top, "margin.l": 20 if wide else 10, "yaxis.showticklabels": wide, **labels}


def vertical(x: float, dash: str = "dot", colour: str = QUIET) -> dict[str, Any]:
    """A reference line over the whole height."""
    line = {"color": colour, "width": 1.5, "dash": dash}
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "xref": "x",
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": line,
        "layer": "below",
    }
