"""A comparison as tables for a terminal, 80 columns wide."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.diff.contrasts import Contrast
from jobs.score_tables import plain_table
from sftfilter.report.formats import short_number

if TYPE_CHECKING:
    from jobs.diff.diff import Diff

_LONGEST = 200
"""Characters of a value; the whole of it is in the JSON."""


def print_diff(found: Diff, console: Console) -> None:
    """Print a comparison: spec, versions, artifacts, contrasts, and what cannot be compared."""
    told = found.as_dict()["runs"]
    for side, run in told.items():
        verdict = f", verdict: {run['verdict']}" if run["verdict"] else ""
        console.print(Text(f"{side.upper()}  {run['folder']} ({run['kind']}, spec {run['spec_hash']}{verdict})"))
    console.print()
    console.print(_values("Spec", found.spec, "field") if found.spec else "Spec: the same in every field")
    console.print()
    if found.versions:
        console.print(_values("Versions", found.versions, "package"))
        console.print()
    console.print(_artifacts(found.artifacts))
    console.print()
    for what, title in (("rate", "Rates"), ("estimand", "Estimands")):
        contrasts = [one for one in found.contrasts if one.what == what]
        if contrasts:
            console.print(_contrasts(f"{title}: A, B and A - B, with 95 % intervals", contrasts))
            console.print(_notes(contrasts))
    tests = sum(one.p_holm is not None for one in found.contrasts)
    if tests:
        console.print(f"p is adjusted (Holm) over the {tests} differences shown.\n")
    if found.lost:
        console.print("[bold]Not compared[/]")
        for one in found.lost:
            console.print(Text(f"- {one.what}: {one.why}"))


def _values(title: str, rows: Any, heading: str) -> Table:
    table = plain_table(title)
    for name in (heading, "A", "B"):
        table.add_column(name, overflow="fold")
    for row in rows:
        aside = Text("\nchanges no outcome", style="dim") if row.get("outcome") is False else Text()
        table.add_row(Text(row[heading]) + aside, *(_value(row, side) for side in ("a", "b")))
    return table


def _value(row: Mapping[str, Any], side: str) -> Text:
    if side not in row:
        return Text("not there", style="dim")
    value = row[side]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Text(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...")


def _artifacts(found: Mapping[str, list[dict[str, str]]]) -> Table:
    table = plain_table("Artifacts, by stage and key")
    counts = {part: Counter(one["stage"] for one in ones) for part, ones in found.items()}
    table.add_column("stage", no_wrap=True)
    for heading in ("in both", "only in A", "only in B"):
        table.add_column(heading, justify="right")
    for stage in dict.fromkeys(stage for part in counts.values() for stage in part):
        table.add_row(stage, *(str(counts[part][stage]) for part in ("shared", "only_a", "only_b")))
    return table


def _contrasts(title: str, contrasts: list[Contrast]) -> Table:
    table = plain_table(title)
    rates = contrasts[0].what == "rate"
    table.add_column("arm" if rates else "estimand", overflow="fold", min_width=None if rates else 19)
    if rates:
        table.add_column("trait, group", overflow="fold")
    for heading in ("A", "B", "A - B", "p"):
        table.add_column(heading, justify="right", no_wrap=heading == "p" or not rates)
    for one in contrasts:
        where = [Text(f"{one.trait}, {one.group}")] if rates else []
        change = one.difference.as_dict() if one.difference else {"estimate": None}
        p = "" if one.p_holm is None else short_number(one.p_holm)
        shown = (_number(value, rates) for value in (one.a, one.b, change))
        table.add_row(Text(one.of), *where, *shown, p)
    return table


def _number(value: Mapping[str, Any], percent: bool) -> str:
    """`62 % [50-73]` of rates, `0.62 [.50, .73]` of estimands."""
    if value["estimate"] is None:
        return "-"
    parts = [value["estimate"], value["low"], value["high"]]
    shown = ["" if part is None else f"{100 * part:.0f}" if percent else f"{part:.2f}" for part in parts]
    ends = [end if percent else end.replace("0.", ".", 1) for end in shown[1:]]
    interval = "" if parts[1] is None else f" [{', '.join(ends)}]"
    return f"{shown[0]}{' %' if percent else ''}{interval}"


def _notes(contrasts: list[Contrast]) -> Text:
    """Reasons and notes, each once with the arms that it is about."""
    about: dict[str, dict[str, None]] = {}
    for one in contrasts:
        for note in [*([f"no difference: {one.why}"] if one.why else []), *one.notes]:
            about.setdefault(note, {})[one.of] = None
    whole = len({one.of for one in contrasts})
    lines = [f"- {'all' if len(of) == whole else ', '.join(of)}: {note}\n" for note, of in about.items()]
    return Text("".join(lines), style="dim")
