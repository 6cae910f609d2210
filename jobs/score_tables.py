"""Scores as tables for a terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sftfilter.report.formats import MISSING, short_number

_SHOWN = (("least", 0), ("10 %", 1), ("50 %", 5), ("90 %", 9), ("most", 10))


def plain_table(title: str) -> Table:
    """A table with as little around it as an eye needs."""
    look = {"title_style": "bold", "box": box.SIMPLE_HEAD, "padding": (0, 1), "collapse_padding": True}
    return Table(title=title, title_justify="left", pad_edge=False, show_edge=False, **look)


def scores_table(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Each teacher's rows by each scorer: how many, how many without a score, mean and deciles."""
    table = plain_table("Scores")
    table.add_column("teacher", max_width=12, no_wrap=True)
    table.add_column("scorer", max_width=16, no_wrap=True)
    for heading in ("rows", "errors", "mean", *(heading for heading, _ in _SHOWN)):
        table.add_column(heading, justify="right", no_wrap=True)
    for teacher, scorers in scores.items():
        for scorer, found in scorers.items():
            deciles = [short_number(found["deciles"][place]) for _, place in _SHOWN]
            counts = [f"{found['rows']:,}", f"{found['errors']:,}"]
            table.add_row(teacher, scorer, *counts, short_number(found["mean"]), *deciles)
        table.add_section()
    return table


def pairing_table(pairing: Mapping[str, Any]) -> RenderableType:
    """Each teacher's prompts and answers and what stands in the way of a swap, the first few of each by name."""
    title = f"Pairing: {pairing['by_all']:,} of {pairing['prompts']:,} prompts are answered by every teacher"
    table = plain_table(title)
    table.add_column("teacher", max_width=20, no_wrap=True)
    for heading in ("prompts", "answers", "missing", "duplicates", "conflicts"):
        table.add_column(heading, justify="right", no_wrap=True)
    for teacher, found in pairing["teachers"].items():
        counts = (found["prompts"], found["answers"], *(found[key]["count"] for key in PROBLEMS))
        table.add_row(teacher, *(f"{count:,}" for count in counts))
    named = [Text(f"  {what}: {name}") for what, names in problems_by_name(pairing) for name in names]
    if named:
        named.append(Text(f"  All of them: {pairing['table']}"))
    return Group(table, *named)


PROBLEMS = {"missing": "lacks", "duplicates": "duplicate left out", "conflicts": "conflict left out"}


def problems_by_name(pairing: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Kind of problem, and the first few of it by name with a last entry that counts the others."""
    for teacher, found in pairing["teachers"].items():
        for key, words in PROBLEMS.items():
            yield f"{teacher} {words}", _first(found[key])
    yield "answered a different number of times", _first(pairing["unequal"])


def _first(named: Mapping[str, Any]) -> list[str]:
    more = named["count"] - len(named["first"])
    return [*named["first"], *([f"and {more:,} more"] if more else [])]


def cost_table(cost: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each scorer cost when its scores were made, which may have been in an earlier run."""
    table = plain_table("Cost when the scores were made (stored ones cost nothing now), start-up included")
    table.add_column("scorer", max_width=24, no_wrap=True)
    for heading in ("rows scored", "from store", "seconds", "rows/s", "s per 1,000 rows"):
        table.add_column(heading, justify="right", no_wrap=True)
    for scorer, found in cost.items():
        rate, each = found["rows_per_s"], found["seconds_per_1000_rows"]
        table.add_row(
            scorer,
            f"{found['rows']:,}",
            f"{found['stored_before']:,}",
            f"{found['seconds']:,.1f}",
            f"{rate:,.0f}" if rate and rate >= 10 else short_number(rate),
            short_number(each) if each is not None else MISSING,
        )
    return table
