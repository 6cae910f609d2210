"""Scores as tables for a terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

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


def cost_table(cost: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each scorer cost, when its scores were made."""
    table = plain_table("Cost on the machine that scored, start-up of the actors included")
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
