"""Dot plots with intervals: arms by group, log-odds, and the forest of estimands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report import tables, words
from sftfilter.report.figures import PALETTE, QUIET, Label, Plot, axis, labelled_rows, plot, safe, vertical

Values = Sequence[Mapping[str, Any]]
Read = Callable[[Mapping[str, Any]], str]

_MARKS = ("circle", "diamond-open", "square-open", "triangle-up-open", "x-thin-open")
_NOT_SHARES = ("gap", "dilution_line", "minimum_detectable_difference")
"""The line is drawn as one; the others are differences of rates and have no place on an axis of shares."""

_FAR = 2.5
"""A share with almost no gap in its denominator can have an interval of any width; the axis stops here."""


def arms(found: Values, trait: str, number: int) -> Plot | None:
    """The rate in every group by arm; None when no arm measured the trait."""
    groups = tables.group_names(found, trait)
    series = {group: [f.part(arm, "traits", trait, group) for arm in found] for group in groups}
    if not any(value.get("estimate") is not None for values in series.values() for value in values):
        return None
    labels = [_label(arm) for arm in found]
    traces = [
        _dots(f"{group} prompts", values, labels, place, len(groups), f.rate_text)
        for place, (group, values) in enumerate(series.items())
    ]
    layout = labelled_rows(labels, lines=-(-len(groups) // 2), narrow_row=60 if len(groups) == 1 else 76)
    layout["xaxis"] = axis(f"answers that show {safe(trait)}", percent=True, range=[-0.03, 1.03])
    layout["annotations"] += _absent(series[groups[0]])
    layout["shapes"] = [vertical(x) for x in _ends(found, trait, groups[0])]
    spoken = _spoken(labels, series[groups[0]], f.rate_text)
    return plot(f"arms-{number}", f"Rate of {trait} on {groups[0]} prompts by arm. {spoken}", traces, layout)


def log_odds(found: Values, trait: str, number: int) -> Plot | None:
    """The continuous measure by arm; None when no arm has it."""
    values = [f.part(arm, "traits", trait, "log_odds") for arm in found]
    if all(value.get("estimate") is None for value in values):
        return None
    labels = [_label(arm) for arm in found]
    layout = labelled_rows(labels, lines=0)
    layout["xaxis"] = axis(f"log-odds of {safe(trait)} (0: as likely as not)")
    layout["annotations"] += _absent(values)
    layout["showlegend"] = False
    traces = [_dots("log-odds", values, labels, 0, 1, f.mean_text)]
    return plot(f"odds-{number}", f"Log-odds of {trait} by arm. {_spoken(labels, values, f.mean_text)}", traces, layout)


def forest(found: Mapping[str, Any]) -> Plot | None:
    """Estimands on one axis, with the dilution line; None when there is nothing to draw."""
    names = [name for name in found if name not in _NOT_SHARES and f.part(found, name)]
    values = [f.part(found, name) for name in names]
    if all(value.get("estimate") is None for value in values):
        return None
    labels = [Label(name, words.ESTIMANDS.get(name, "")) for name in names]
    layout = labelled_rows(labels)
    span = _span(values)
    layout["xaxis"] = axis("share of the gap between original and alternate", range=span, zeroline=False)
    layout["annotations"] += _absent(values, "not estimable") + _beyond(values, span)
    layout["shapes"] = [vertical(0, "solid", "#b9c0c7"), vertical(1, "solid", "#b9c0c7")]
    spoken = _spoken(labels, values, f.interval_text)
    line = f.part(found, "dilution_line").get("estimate")
    traces = [_dots("estimate", values, labels, 0, 1, f.interval_text)]
    if line is not None:
        layout["shapes"].append(vertical(line, "dash", PALETTE[1]))
        traces.append(_legend_line(f"dilution line {f.number(line)}"))
        spoken += f" Dilution line at {f.number(line)}."
    layout["showlegend"] = line is not None
    return plot("forest", f"Estimands with 95 % intervals. {spoken}", traces, layout)


def _label(arm: Mapping[str, Any]) -> Label:
    return Label(str(arm.get("name") or f.MISSING), words.role_words(arm.get("role")))


def _dots(name: str, values: Values, labels: Sequence[Label], place: int, places: int, read: Read) -> Any:
    """One group's marks; groups lie a little above and below each other so that intervals do not hide each other."""
    import plotly.graph_objects as go

    shown = [(row, value) for row, value in enumerate(values) if value.get("estimate") is not None]
    middle = [value["estimate"] for _, value in shown]
    up = [max(0.0, (_or(value.get("high"), at)) - at) for (_, value), at in zip(shown, middle, strict=True)]
    down = [max(0.0, at - _or(value.get("low"), at)) for (_, value), at in zip(shown, middle, strict=True)]
    colour = PALETTE[place % len(PALETTE)]
    width = 2.5 if place == 0 else 1.2
    return go.Scatter(
        x=middle,
        y=[row + (place - (places - 1) / 2) * 0.2 for row, _ in shown],
        name=safe(name),
        mode="markers",
        marker={
            "symbol": _MARKS[place % len(_MARKS)],
            "size": 11 if place == 0 else 8,
            "color": colour,
            "line": {"width": 1.6, "color": colour},
        },
        error_x={"type": "data", "array": up, "arrayminus": down, "thickness": width, "width": 0, "color": colour},
        text=[f"<b>{safe(labels[row].text)}</b><br>{safe(name)}: {safe(read(value))}" for row, value in shown],
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
    )


def _or(value: Any, default: float) -> float:
    return default if value is None else value


def _legend_line(name: str) -> Any:
    """Shapes have no legend entry of their own, so an empty trace carries it."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[None], y=[None], mode="lines", name=name, line={"color": PALETTE[1], "dash": "dash", "width": 1.5}
    )


def _absent(values: Values, word: str = "not graded") -> list[dict[str, Any]]:
    """Words in the place of a mark that is not there."""
    look = {"x": 0, "xref": "paper", "xanchor": "left", "showarrow": False, "font": {"size": 12, "color": QUIET}}
    return [
        {"text": f"<i>{word}</i>", "y": row, "xshift": 6, **look}
        for row, value in enumerate(values)
        if value.get("estimate") is None
    ]


def _beyond(values: Values, span: Sequence[float]) -> list[dict[str, Any]]:
    """The number itself at the edge where a mark lies outside the axis."""
    found = []
    for row, value in enumerate(values):
        at = value.get("estimate")
        if at is not None and not span[0] <= at <= span[1]:
            right = at > span[1]
            text = f"{f.number(at)} →" if right else f"← {f.number(at)}"
            look = {"x": int(right), "xref": "paper", "xanchor": "right" if right else "left", "yshift": 11}
            found.append(
                {"text": text, "y": row, "showarrow": False, "font": {"size": 12, "color": PALETTE[0]}, **look}
            )
    return found


def _ends(found: Values, trait: str, group: str) -> list[float]:
    ends = [f.part(arm, "traits", trait, group) for arm in found if arm.get("role") in ("original", "alternate")]
    return [value["estimate"] for value in ends if value.get("estimate") is not None]


def _span(values: Values) -> list[float]:
    numbers = [value[key] for value in values for key in ("estimate", "low", "high") if value.get(key) is not None]
    low, high = min([0.0, *numbers]), max([1.0, *numbers])
    return [max(low, 1 - _FAR) - 0.06, min(high, _FAR) + 0.06]


def _spoken(labels: Sequence[Label], values: Values, read: Read) -> str:
    return "; ".join(f"{label.text} {read(value)}" for label, value in zip(labels, values, strict=True)) + "."
