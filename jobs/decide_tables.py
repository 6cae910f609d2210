"""Decisions as tables for a terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from jobs.score_tables import plain_table
from sftfilter.report.formats import percent, short_number

_ALWAYS = ("kept", "dropped", "swapped")
_RARE = ("rewritten", "added")


def decisions_table(decisions: Mapping[str, Mapping[str, Any]]) -> Table:
    """A line for each training set: what became of the teacher's rows, and how much is left to train on."""
    shown = _shown(list(decisions.values()))
    table = plain_table("Decisions")
    table.add_column("decision", max_width=20, no_wrap=True)
    for heading in (*shown, "changed", "trained", "characters"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in decisions.items():
        counts = [f"{one[key]:,}" for key in shown]
        changed = percent(1 - one["kept"] / one["rows"]) if one["rows"] else ""
        table.add_row(name, *counts, changed, f"{one['trained']:,}", f"{one['characters']:,}")
    return table


def sweep_table(swept: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each value and decision."""
    shown = _shown(swept)
    table = plain_table("Sweep")
    table.add_column("value", justify="right")
    table.add_column("decision", max_width=24, no_wrap=True)
    for heading in ("selected", *shown, "trained"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in swept:
        counts = [f"{one[key]:,}" for key in ("subset_rows", *shown, "trained")]
        table.add_row(short_number(one["value"]), one["decision"], *counts)
    return table


def _shown(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [*_ALWAYS, *(key for key in _RARE if any(line[key] for line in lines))]
