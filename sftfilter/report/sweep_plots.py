"""Plots of a sweep: a trait's rate against each swept field, a line for each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.figures import PALETTE, Plot, axis, plot, safe

_DASHES = ("solid", "dash", "dot", "dashdot")
_LINES = 12
"""More lines than this nobody can follow; then there are only marks, whose labels name the point."""

Rows = Sequence[Mapping[str, Any]]


def sweep_plots(rows: Rows, columns: Sequence[str], trait: str, number: int) -> list[Plot]:
    """A plot for each field that has more than one value.

    Args:
        rows: of the tidy table, one trait's, in its own group of prompts.
        columns: of the swept fields.
    """
    rated = [row for row in rows if row.get("estimate") is not None]
    found = []
    for place, column in enumerate(columns):
        if len({row[column] for row in rated}) > 1:
            others = [name for name in columns if name != column]
            found.append(_plot(rated, column, others, trait, f"sweep-{number}-{place}"))
    return found


def _plot(rows: Rows, column: str, others: Sequence[str], trait: str, ident: str) -> Plot:
    """Points with equal other settings belong to one line."""
    lines: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["arm"], *(row[name] for name in others)), []).append(row)
    settings = list(dict.fromkeys(key[1:] for key in lines))
    arms = list(dict.fromkeys(key[0] for key in lines))
    numeric = all(isinstance(row[column], int | float) and not isinstance(row[column], bool) for row in rows)
    joined = len(lines) <= _LINES and any(len(line) > 1 for line in lines.values())
    if not joined:
        lines = {(arm,): [row for row in rows if row["arm"] == arm] for arm in arms}
    traces = []
    for key, line in lines.items():
        name = str(key[0]) + (f", {_settings(others, key[1:])}" if joined and len(settings) > 1 else "")
        look = {"color": PALETTE[arms.index(key[0]) % len(PALETTE)]}
        look["dash"] = _DASHES[(settings.index(key[1:]) if joined else 0) % len(_DASHES)]
        shown = sorted(line, key=lambda row: row[column]) if numeric else line
        traces.append(rate_trace(name, shown, column, numeric, joined, look))
    values = [row[column] for row in rows]
    layout = rate_layout(column, trait, numeric, values, len(lines))
    spoken = "; ".join(f"{t.name}: {_spoken(line, column)}" for t, line in zip(traces, lines.values(), strict=True))
    return plot(ident, f"{trait} against {column}. {spoken}.", traces, layout)


def rate_trace(name: str, line: Rows, column: str, numeric: bool, joined: bool, look: dict[str, Any]) -> Any:
    """A line of rates with their intervals."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[row[column] if numeric else safe(row[column], 40) for row in line],
        y=[row["estimate"] for row in line],
        error_y={
            "array": [row["high"] - row["estimate"] for row in line],
            "arrayminus": [row["estimate"] - row["low"] for row in line],
            "thickness": 1,
            "width": 3,
            "color": look["color"],
        },
        name=safe(name, 40),
        mode="lines+markers" if joined else "markers",
        line={**look, "width": 1.8},
        text=[safe(f"{row['arm']} at {row['point']}", 120) for row in line],
        hovertemplate="%{text}: %{y:.0%}<extra></extra>",
    )


def rate_layout(column: str, trait: str, numeric: bool, values: Sequence[Any], lines: int) -> dict[str, Any]:
    """Rates upwards, the column across, and a legend below."""
    across = axis(safe(column, 60), zeroline=False)
    if not numeric:
        across["type"] = "category"
    elif min(values) > 0 and max(values) / min(values) >= 50:
        across["type"] = "log"
    wide, narrow = 60 + 22 * -(-lines // 4), 64 + 20 * lines
    return {
        "height": 420,
        "xaxis": across,
        "yaxis": axis(f"shows {safe(trait, 40)}", percent=True, range=[-0.03, 1.03]),
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        "showlegend": True,
        "margin": {"l": 64, "r": 16, "t": 16, "b": wide},
        "meta": {"wide": {"height": 420, "margin.b": wide}, "narrow": {"height": 270 + narrow, "margin.b": narrow}},
    }


def _settings(names: Sequence[str], values: Sequence[Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


def _spoken(line: Rows, column: str) -> str:
    return ", ".join(f"{f.percent(row['estimate'])} at {row[column]}" for row in line)
