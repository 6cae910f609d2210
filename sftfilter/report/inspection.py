"""The page of `inspect`: histograms, agreement, rows of each decile beside the other teachers' answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.figures import PALETTE, Plot, axis, plot, safe
from sftfilter.report.shell import write_page
from sftfilter.report.tables import Table, table_of

_LABELS = {"rank_correlation": "Rank correlation (Spearman)", "top_decile": "Shared top tenth (10 % is chance)"}


def write_inspection(folder: Path, findings: Mapping[str, Any]) -> Path:
    """Write `folder/index.html` and return its path.

    Args:
        findings: as in inspect.json.
    """
    found = f.clean(findings)
    scorers = [_scorer(found, name, number) for number, name in enumerate(found["histograms"])]
    view = {
        "name": found["name"],
        "created": f.moment(found.get("created")),
        "command": found.get("command"),
        "spec_hash": found.get("spec_hash"),
        "headline": _headline(found),
        "counts_table": _counts(f.part(found, "counts")),
        "pairing_table": _pairing(f.part(found, "pairing")),
        "pairing_names": _names(f.part(found, "pairing")),
        "scorers": scorers,
        "agreement": [_agreement(teacher, matrices) for teacher, matrices in found["agreement"].items()],
        "kappas": [_kappa(teacher, one) for teacher, one in f.part(found, "selections").items()],
        "errors_table": _errors(found["reasons"]),
        "checks": [_check(one) for one in f.items(found, "checks")],
        "shown": len(found["rows"]),
    }
    plots = [one for scorer in scorers for one in scorer["plots"]]
    return write_page(folder / "index.html", "inspect.html.j2", "inspect.js.j2", view, _data(found), plots)


def _headline(found: Mapping[str, Any]) -> list[dict[str, str]]:
    prompts = found["prompts"]
    rows = [next(iter(scorers.values()))["rows"] for scorers in found["scores"].values() if scorers]
    errors = sum(one["errors"] for scorers in found["scores"].values() for one in scorers.values())
    return [
        {"label": "rows", "value": f.count(sum(rows)), "note": f"{len(found['scores'])} teachers"},
        {"label": "prompts", "value": f.count(prompts["all"]), "note": "distinct"},
        {
            "label": "answered by every teacher",
            "value": f.count(prompts["answered_by_every_teacher"]),
            "note": "prompts",
        },
        {"label": "scorers", "value": str(len(found["histograms"])), "note": f"{f.count(errors)} scores missing"},
    ]


def _scorer(found: Mapping[str, Any], name: str, number: int) -> dict[str, Any]:
    histogram = found["histograms"][name]
    plots = []
    if histogram:
        for place, column in enumerate(histogram["by"]):
            plots.append(_histogram(name, histogram, column, f"hist-{number}-{place}"))
    rows = [
        [teacher, f.count(one[name]["rows"]), f.count(one[name]["errors"]), f.short_number(one[name]["mean"]),
         *map(f.short_number, one[name]["deciles"])]
        for teacher, one in found["scores"].items()
    ]  # fmt: skip
    columns = ["teacher", "rows", "no score", "mean", "least", *(f"{n}0 %" for n in range(1, 10)), "most"]
    table = table_of(f"Scores by {name}: mean and deciles", columns, rows, range(1, len(columns)))
    beyond = histogram["beyond"] if histogram else 0
    return {"name": name, "plots": plots, "table": table, "beyond": f.count(beyond) if beyond else ""}


def _histogram(scorer: str, histogram: Mapping[str, Any], column: str, ident: str) -> Plot:
    """Rows per bin: teachers side by side, sources and kinds stacked."""
    import plotly.graph_objects as go

    bins, groups = histogram["bins"], histogram["by"][column]
    discrete = all(one["low"] == one["high"] for one in bins)
    labels = [_bin_label(one) for one in bins]
    places = labels if discrete else [(one["low"] + one["high"]) / 2 for one in bins]
    traces = [
        go.Bar(
            x=places,
            y=counts,
            name=safe(_short(group), 30),
            marker={"color": PALETTE[place % len(PALETTE)]},
            customdata=labels,
            hovertemplate=f"{safe(_short(group), 40)}, %{{customdata}}: %{{y}} rows<extra></extra>",
        )
        for place, (group, counts) in enumerate(groups.items())
    ]
    layout: dict[str, Any] = {
        "barmode": "group" if column == "teacher" else "stack",
        "bargap": 0.25 if discrete else 0.08,
        "height": 300,
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "xaxis": axis(f"{safe(scorer)} by {safe(column)}", zeroline=False, type="category" if discrete else "linear"),
        "yaxis": axis("rows", rangemode="tozero"),
    }
    spoken = "; ".join(f"{_short(group)}: {f.count(sum(counts))} rows" for group, counts in groups.items())
    return plot(ident, f"Histogram of {scorer} by {column}, {labels[0]} to {labels[-1]}. {spoken}.", traces, layout)


def _bin_label(one: Mapping[str, float]) -> str:
    low, high = f.short_number(one["low"]), f.short_number(one["high"])
    return low if one["low"] == one["high"] else f"{low} to {high}"


def _short(group: str) -> str:
    return group.rstrip("/").rsplit("/", 1)[-1] or group


def _counts(counts: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(key for one in counts.values() for key in one))
    rows = [[teacher, *(f.count(one.get(key, 0)) for key in columns)] for teacher, one in counts.items()]
    heads = [key.replace("_", " ") for key in columns]
    return table_of("Rows by teacher, as they were read", ["teacher", *heads], rows, range(1, len(columns) + 1))


_PROBLEMS = {"missing": "prompts missing", "duplicates": "duplicates left out", "conflicts": "conflicts left out"}


def _pairing(pairing: Mapping[str, Any]) -> Table:
    rows = [
        [teacher, f.count(one["prompts"]), f.count(one["answers"]), *(f.count(one[key]["count"]) for key in _PROBLEMS)]
        for teacher, one in f.part(pairing, "teachers").items()
    ]
    columns = ["teacher", "prompts", "answers", *_PROBLEMS.values()]
    return table_of("Pairing of the teachers' answers", columns, rows, range(1, len(columns)))


def _names(pairing: Mapping[str, Any]) -> Table | None:
    """The first few problems of each kind by name, as far as there are any."""
    found = [
        (teacher, words, one[key])
        for teacher, one in f.part(pairing, "teachers").items()
        for key, words in _PROBLEMS.items()
    ]
    found.append(("", "another number of answers", f.part(pairing, "unequal")))
    rows = [[teacher, words, name] for teacher, words, one in found for name in f.items(one, "first")]
    caption = f"What is in the way of a swap, the first of each kind; all of it: {pairing.get('table')}"
    return table_of(caption, ["teacher", "problem", "prompt or row"], rows) if rows else None


def _agreement(teacher: str, found: Mapping[str, Any]) -> dict[str, Any]:
    names = found["columns"]
    matrices = [
        {
            "caption": f"{words}, teacher {teacher}",
            "names": names,
            "rows": [
                {
                    "name": name,
                    "cells": [_shaded(None if i == j else v, key == "top_decile") for j, v in enumerate(line)],
                }
                for i, (name, line) in enumerate(zip(names, found[key], strict=True))
            ],
        }
        for key, words in _LABELS.items()
    ]
    return {"teacher": teacher, "matrices": matrices}


def _shaded(value: float | None, share: bool) -> dict[str, Any]:
    if value is None:
        return {"text": f.MISSING, "shade": 0, "hue": "blue"}
    text = f.percent(value) if share else f.number(value)
    return {"text": text, "shade": round(min(abs(value), 1) * 0.4, 2), "hue": "blue" if value >= 0 else "red"}


def _kappa(teacher: str, found: Mapping[str, Any]) -> Table:
    names = found["selectors"]
    rows = [
        [name, f.count(found["rows"][name]), *(f.number(value) for value in line)]
        for name, line in zip(names, found["kappa"], strict=True)
    ]
    caption = f"Selectors of teacher {teacher}: rows taken, and Cohen's kappa with each other"
    return table_of(caption, ["selector", "rows", *names], rows, range(1, len(names) + 2))


def _check(found: Mapping[str, Any]) -> dict[str, Any]:
    """What one guard counted, and the first rows of what it found."""
    counts = "; ".join(f"{key.replace('_', ' ')}: {f.count(value)}" for key, value in found["counts"].items())
    columns = [name.replace("_", " ") for name in found["columns"]]
    table = table_of(f"{found['guard']}, the first {len(found['rows'])}", columns, found["rows"])
    return {"guard": found["guard"], "counts": counts, "table": table if found["rows"] else None}


def _errors(reasons: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table | None:
    rows = [
        [scorer, one["teacher"], f.count(one["rows"]), one["reason"]]
        for scorer, found in reasons.items()
        for one in found
    ]
    columns = ["scorer", "teacher", "rows", "reason"]
    return table_of("Rows without a score, by reason", columns, rows, [2]) if rows else None


def _data(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the explorer reads: each row once, and where each scorer saw it."""
    places = {identifier: number for number, identifier in enumerate(found["rows"])}
    return {
        "rows": [_row(row) for row in found["rows"].values()],
        "seen": list(_seen(found["strata"], places)),
        "scorers": list(found["strata"]),
        "teachers": list(found["scores"]),
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("id", "teacher", "kind", "prompt", "completion", "characters", "scores")
    others = [
        {key: one[key] for key in ("teacher", "completion", "characters", "scores", "answers")} for one in row["others"]
    ]
    return {key: row[key] for key in kept} | {"source": _short(row["source"] or ""), "others": others}


def _seen(strata: Mapping[str, Any], places: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for scorer, teachers in strata.items():
        for teacher, parts in teachers.items():
            for part in reversed(parts):
                first, last = part["first"], part["last"]
                label = str(first) if first == last else f"{first} to {last}"
                span = _bin_label(part)
                for identifier in reversed(part["sample"]):
                    yield {"row": places[identifier], "scorer": scorer, "teacher": teacher, "first": first,
                           "last": last, "label": label, "span": span, "of": part["rows"]}  # fmt: skip
