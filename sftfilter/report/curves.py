"""Plots of a trait over training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.figures import PALETTE, Plot, axis, plot, safe

_DASHES = ("solid", "dash", "dot")


def trait_curves(arms: Sequence[Mapping[str, Any]], trait: str) -> Plot | None:
    """The trait's rate after each exported step, with its interval; None when nothing was exported in between."""
    import plotly.graph_objects as go

    known = [(str(arm.get("name") or f.MISSING), f.items(f.part(arm, "curves"), trait)) for arm in arms]
    known = [(name, points) for name, points in known if any(p.get("estimate") is not None for p in points)]
    if not known:
        return None
    traces = []
    for place, (name, points) in enumerate(known):
        drawn = [p for p in points if p.get("estimate") is not None]
        colour = PALETTE[place % len(PALETTE)]
        traces.append(
            go.Scatter(
                x=[p["step"] for p in drawn],
                y=[p["estimate"] for p in drawn],
                error_y={
                    "array": [p["high"] - p["estimate"] for p in drawn],
                    "arrayminus": [p["estimate"] - p["low"] for p in drawn],
                    "thickness": 1,
                    "width": 3,
                    "color": colour,
                },
                name=safe(name, 30),
                mode="lines+markers",
                line={"color": colour, "width": 1.8, "dash": _DASHES[place // len(PALETTE) % len(_DASHES)]},
                hovertemplate=f"{safe(name, 40)}, step %{{x}}: %{{y:.0%}}<extra></extra>",
            )
        )
    wide, narrow = 56 + 22 * -(-len(known) // 5), 60 + 20 * len(known)
    layout = {
        "height": 400,
        "xaxis": axis("optimiser step", zeroline=False),
        "yaxis": axis(f"shows {trait}", percent=True, rangemode="tozero"),
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        "showlegend": True,
        "margin": {"l": 64, "r": 16, "t": 16, "b": wide},
        "meta": {"wide": {"height": 400, "margin.b": wide}, "narrow": {"height": 260 + narrow, "margin.b": narrow}},
    }
    spoken = "; ".join(f"{name} {_spoken(points)}" for name, points in known)
    return plot(f"curve-{trait}", f"{trait} by training step: {spoken}.", traces, layout)


def _spoken(points: Sequence[Mapping[str, Any]]) -> str:
    rated = [p for p in points if p.get("estimate") is not None]
    return ", ".join(f"{p['estimate']:.0%} at step {p['step']}" for p in rated)
