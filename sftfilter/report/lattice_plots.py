"""Plots of a lattice's interpolation: a trait's rate against the share of rows changed, beside controls and dilution line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.figures import PALETTE, QUIET, Plot, plot, safe
from sftfilter.report.sweep_plots import rate_layout, rate_trace

MODES = {
    "drop": "dropped",
    "swap": "swapped",
    "neutralise": "neutralised",
    "converse_drop": "dropped from the alternate",
    "converse_swap": "original put on the alternate",
}
_ACROSS = "share of rows changed"

Rows = Sequence[Mapping[str, Any]]


def interpolation_plots(rows: Rows, trait: str, number: int) -> list[Plot]:
    """A plot of the curves that start from the original's rows, and one of those that start from the alternate's.

    Args:
        rows: of the table `interpolation`, one trait's, in its own group of prompts.
    """
    found = []
    for place, start in enumerate(("original", "alternate")):
        own = [row for row in rows if row["mode"].startswith("converse") == (start == "alternate")]
        if any(row.get("estimate") is not None for row in own):
            found.append(_plot(own, trait, start, f"interpolation-{number}-{place}"))
    return found


def _plot(rows: Rows, trait: str, start: str, ident: str) -> Plot:
    traces, spoken = [], []
    for place, mode in enumerate(dict.fromkeys(row["mode"] for row in rows)):
        own = [row for row in rows if row["mode"] == mode]
        for what, dash in (("", "solid"), ("control_", "dash")):
            name = MODES[mode] + (", random prompts" if what else "")
            line = _line(own, what)
            look = {"color": PALETTE[place % len(PALETTE)], "dash": dash}
            traces.append(rate_trace(name, line, "x", True, True, look))
            spoken.append(f"{name}: " + ", ".join(f"{f.percent(p['estimate'])} at {f.percent(p['x'])}" for p in line))
    for mode, name in (
        ("swap", "dilution line"),
        ("converse_swap", "dilution line"),
        ("converse_drop", "the alternate"),
    ):
        if drawn := [row for row in rows if _line_of(row["mode"]) == mode and row["dilution"] is not None]:
            traces.append(_dilution(drawn, name, "dot" if name == "dilution line" else "dashdot"))
    layout = rate_layout(_ACROSS, trait, True, [0, 1], len(traces))
    layout["xaxis"]["tickformat"] = ".0%"
    return plot(ident, f"{trait} against the {_ACROSS}, from the {start}'s rows. {'; '.join(spoken)}.", traces, layout)


def _line(rows: Rows, what: str) -> list[dict[str, Any]]:
    """Points of a mode's own arms, or of its controls."""
    return [
        {
            "x": row[f"{what}f"],
            "arm": row[what.rstrip("_") or "arm"],
            "point": f"{f.percent(row['fraction'])} of the subset",
            **{key: row[f"{what}{key}"] for key in ("estimate", "low", "high")},
        }
        for row in sorted(rows, key=lambda row: row["fraction"])
        if row[f"{what}estimate"] is not None
    ]


def _line_of(mode: str) -> str:
    """Modes that share a line."""
    return mode if mode.startswith("converse") else "swap"


def _dilution(rows: Rows, name: str, dash: str) -> Any:
    import plotly.graph_objects as go

    places = dict(sorted((row["f"], row["dilution"]) for row in rows))
    return go.Scatter(
        x=list(places),
        y=list(places.values()),
        name=safe(name),
        mode="lines",
        line={"color": QUIET, "dash": dash, "width": 1.5},
        hovertemplate=f"{name}: %{{y:.0%}}<extra></extra>",
    )
