"""Plots of the data itself: rows per arm, scores by kind, and training loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report import words
from sftfilter.report.figures import INK, PALETTE, Label, Plot, axis, labelled_rows, plot, safe, vertical

_BINS = 24
_POINTS = 400
_KINDS = 7
"""More kinds than colours would be told apart by nobody; the rest are drawn as one."""

_ACTIONS = (
    ("kept", PALETTE[0], ""),
    ("swapped", PALETTE[1], "/"),
    ("rewritten", PALETTE[2], "x"),
    ("added", PALETTE[3], "+"),
    ("dropped", "#b4bcc4", "."),
)
_DASHES = ("solid", "dash", "dot")


def row_counts(arms: Sequence[Mapping[str, Any]]) -> Plot | None:
    """What happened to the rows of each arm; the untrained base has none and is left out."""
    import plotly.graph_objects as go

    known = [(arm, f.part(arm, "rows")) for arm in arms]
    known = [(arm, rows) for arm, rows in known if any(rows.get(name) for name, _, _ in _ACTIONS)]
    if not known:
        return None
    actions = [action for action in _ACTIONS if any(rows.get(action[0]) for _, rows in known)]
    labels = [Label(str(arm.get("name") or f.MISSING), words.role_words(arm.get("role"))) for arm, _ in known]
    traces = [
        go.Bar(
            x=[rows.get(name) or 0 for _, rows in known],
            y=list(range(len(known))),
            orientation="h",
            name=name,
            width=0.42,
            marker={
                "color": colour,
                "pattern": {"shape": pattern, "fgcolor": "white", "size": 5, "solidity": 0.25, "fillmode": "overlay"},
            },
            text=[
                f"{safe(label.text)}: {f.count(rows.get(name))} {name}"
                for label, (_, rows) in zip(labels, known, strict=True)
            ],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
        for name, colour, pattern in actions
    ]
    layout = labelled_rows(labels)
    layout |= {"barmode": "stack", "xaxis": axis("training rows", rangemode="tozero")}
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"}
    spoken = "; ".join(f"{label.text} {_actions(rows)}" for label, (_, rows) in zip(labels, known, strict=True))
    return plot("rows-by-arm", f"Training rows by arm. {spoken}.", traces, layout)


def _actions(rows: Mapping[str, Any]) -> str:
    return ", ".join(f"{f.count(rows.get(name))} {name}" for name, _, _ in _ACTIONS if rows.get(name))


def histogram(rows: Sequence[Mapping[str, Any]], scorer: str, threshold: float | None, ident: str) -> Plot | None:
    """Scores stacked by kind of prompt, with the threshold; None when no row was scored."""
    import plotly.graph_objects as go

    kinds = _scores(rows, scorer)
    values = [value for scores in kinds.values() for value in scores]
    if not values:
        return None
    low, width, bins = _bins(values, threshold)
    centres = [low + width * (place + 0.5) for place in range(bins)]
    traces = [
        go.Bar(
            x=centres,
            y=_binned(scores, low, width, len(centres)),
            name=safe(kind, 40),
            width=width * 0.94,
            marker={"color": PALETTE[place % len(PALETTE)]},
            hovertemplate=f"{safe(kind, 40)}: %{{y}} rows near %{{x:.3g}}<extra></extra>",
        )
        for place, (kind, scores) in enumerate(kinds.items())
        if scores
    ]
    layout: dict[str, Any] = {"barmode": "stack", "height": 330, "bargap": 0, "showlegend": True}
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"}
    layout |= {"xaxis": axis(f"score of {safe(scorer)}", zeroline=False), "yaxis": axis("rows", rangemode="tozero")}
    spoken = f"{len(values)} scores from {min(values):.3g} to {max(values):.3g}"
    if threshold is not None:
        layout["shapes"] = [vertical(threshold, "dash", INK) | {"layer": "above"}]
        look = {"y": 1, "yref": "paper", "yanchor": "top", "xanchor": "left", "xshift": 5, "showarrow": False}
        layout["annotations"] = [
            {"x": threshold, "text": f"threshold {threshold:.3g}", "bgcolor": "rgba(255,255,255,.85)", **look}
        ]
        _keep_inside(layout, low, low + width * len(centres), threshold)
        spoken += f"; threshold {threshold:.3g}, at or above it {sum(value >= threshold for value in values)}"
    return plot(ident, f"Histogram of {scorer} by kind of prompt: {spoken}.", traces, layout)


def _bins(values: Sequence[float], threshold: float | None) -> tuple[float, float, int]:
    """Left edge, width and number of bins; equal scores get one bin, narrow beside their distance to the threshold."""
    low, high = min(values), max(values)
    if high > low:
        return low, (high - low) / _BINS, _BINS
    width = abs((threshold or 0.0) - low) / _BINS or 1 / _BINS
    return low - width / 2, width, 1


def _keep_inside(layout: dict[str, Any], low: float, high: float, threshold: float) -> None:
    """Widens the axis to a threshold outside the scores, and turns its label where it would leave the plot."""
    left, right = min(low, threshold), max(high, threshold)
    margin = (right - left) * 0.03
    layout["xaxis"]["range"] = [left - margin, right + margin]
    if threshold > left + (right - left) * 0.7:
        layout["annotations"][0] |= {"xanchor": "right", "xshift": -5}


def _scores(rows: Sequence[Mapping[str, Any]], scorer: str) -> dict[str, list[float]]:
    """Scores by kind. Every kind has its place, scored or not, so that it has one colour in all histograms."""
    kinds: dict[str, list[float]] = {}
    for row in rows:
        scores = kinds.setdefault(str(row.get("kind") or f.MISSING), [])
        value = f.part(row, "scores").get(scorer)
        if isinstance(value, int | float):
            scores.append(value)
    if len(kinds) <= _KINDS:
        return kinds
    names = list(kinds)
    rest = [value for name in names[_KINDS - 1 :] for value in kinds[name]]
    return {name: kinds[name] for name in names[: _KINDS - 1]} | {"other kinds": rest}


def _binned(scores: Sequence[float], low: float, width: float, bins: int) -> list[int]:
    found = [0] * bins
    for value in scores:
        found[min(int((value - low) / width), bins - 1)] += 1
    return found


def losses(arms: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Training loss by step; None when no arm recorded any."""
    import plotly.graph_objects as go

    known = [(str(arm.get("name") or f.MISSING), f.items(arm, "losses")) for arm in arms]
    known = [(name, values) for name, values in known if any(value is not None for value in values)]
    if not known:
        return None
    traces = []
    for place, (name, values) in enumerate(known):
        steps = _thinned(len(values))
        line = {"color": PALETTE[place % len(PALETTE)], "width": 1.8}
        line["dash"] = _DASHES[place // len(PALETTE) % len(_DASHES)]
        traces.append(
            go.Scatter(
                x=[step + 1 for step in steps],
                y=[values[step] for step in steps],
                name=safe(name, 30),
                mode="lines" if len(values) > 1 else "markers",
                line=line,
                hovertemplate=f"{safe(name, 40)}, step %{{x}}: %{{y:.3f}}<extra></extra>",
            )
        )
    below = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    wide, narrow = 56 + 22 * -(-len(known) // 5), 60 + 20 * len(known)
    layout = {
        "height": 400,
        "xaxis": axis("optimiser step", zeroline=False),
        "yaxis": axis("loss", rangemode="tozero"),
        "legend": below,
        "showlegend": True,
        "margin": {"l": 56, "r": 16, "t": 16, "b": wide},
        "meta": {"wide": {"height": 400, "margin.b": wide},
                 "narrow": {"height": 260 + narrow, "margin.b": narrow}},
    }  # fmt: skip
    return plot("losses", f"Training loss by step for {', '.join(name for name, _ in known)}.", traces, layout)


def _thinned(length: int) -> list[int]:
    """Positions to draw: all, or evenly spread with the last one kept."""
    if length <= _POINTS:
        return list(range(length))
    return sorted({round(place * (length - 1) / (_POINTS - 1)) for place in range(_POINTS)})
