"""Plots of a lattice: its cells as a grid, and of its interpolation a trait's rate against the share of rows changed, beside controls and dilution line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.figures import PALETTE, QUIET, Plot, plot, safe
from sftfilter.report.heat import Shade, heat
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


def cells_plot(rows: Rows, trait: str, number: int) -> Plot | None:
    """The cells as a grid, base and prompts by teacher, with rates and intervals; None where no cell has a rate.

    Args:
        rows: of the table `cells`, one trait's, in its own group of prompts; probes among them are left out.
    """
    rows = [row for row in rows if not row.get("probe")]  # a changed training set beside a cell, and none itself
    if all(row["estimate"] is None for row in rows):
        return None
    lines, teachers = (list(dict.fromkeys(map(name, rows))) for name in (_line_of_cell, _teacher_of_cell))
    cells = {(_line_of_cell(row), _teacher_of_cell(row)): _shade(row) for row in rows}
    spoken = "; ".join(f"{row['cell']} {f.rate_text(row)}" for row in rows)
    alt = f"Rate of {trait} in every cell, base and prompts by teacher: {spoken}."
    return heat(f"cells-{number}", alt, lines, teachers, cells, 1.0, ("base, prompts", "teacher"))


def _line_of_cell(row: Mapping[str, Any]) -> str:
    return f"{row['base']}, {row['prompts'] or 'untrained'}"


def _teacher_of_cell(row: Mapping[str, Any]) -> str:
    return str(row["teacher"] or "none")


def _shade(row: Mapping[str, Any]) -> Shade:
    if row["estimate"] is None:
        return Shade(None, ["no rate"])  # the table beside says why
    interval = f.rate_interval({key: row[key] for key in ("low", "high")})
    return Shade(row["estimate"], [f.percent(row["estimate"]), interval, *(["broken"] if row["broken"] else [])])


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
