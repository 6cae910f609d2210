"""`python -m tests.benchmarks scoring`: measure, print a table, write runs/bench/AREA.json."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.row import Row, missing

AREAS = {
    "scoring": ("scoring", "decide", "scoring_models"),
    "training": ("training", "training_arms"),
    "equivalence": ("equivalence",),
}
"""Modules of this package, each with `rows()` that yields a `Row` as soon as it is measured."""

RESULTS = Path("runs/bench")


def measure(area: str, console: Console) -> list[Row]:
    """Every row of an area; a module that fails becomes a row that says why, and the others go on."""
    made: list[Row] = []
    for name in AREAS[area]:
        module = f"{__package__}.{name}"
        if importlib.util.find_spec(module) is None:
            continue
        began = time.monotonic()
        console.print(f"[bold]{name}[/]")
        try:
            for row in importlib.import_module(module).rows():
                made.append(row)
                console.print(f"  {time.monotonic() - began:5.0f} s  {row.name}: {_figure(row)}")
        except Exception as problem:
            traceback.print_exc()
            made.append(missing(name, "", None, f"{type(problem).__name__}: {problem}"[:300]))
    return made


def _figure(row: Row) -> str:
    if row.ratio is None:
        return f"not measured: {row.note}"
    return f"{row.ours:,.4g} against {row.peer:,.4g} {row.unit}, ratio {row.ratio:.2f}"


def table(area: str, rows: list[Row]) -> Table:
    """The rows, aligned for the terminal."""
    made = Table(title=f"benchmark: {area}", title_justify="left")
    for heading in ("name", "ours", "peer", "unit", "ratio", "goal", "", "note"):
        made.add_column(heading, justify="right" if heading in {"ours", "peer", "ratio", "goal"} else "left")
    for row in rows:
        word = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.met]
        made.add_row(row.name, *_cells(row), word, row.note)
    return made


def _cells(row: Row) -> Iterator[str]:
    for value, form in ((row.ours, ",.4g"), (row.peer, ",.4g")):
        yield "-" if value is None else format(value, form)
    yield row.unit
    for value in (row.ratio, row.goal):
        yield "-" if value is None else format(value, ".2f")


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main(arguments: list[str]) -> None:
    """Measure the areas that are named, or all."""
    unknown = [a for a in arguments if a not in AREAS]
    if unknown:
        sys.exit(f"unknown area {unknown[0]}; there are: {', '.join(AREAS)}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    for area in arguments or AREAS:
        before = machine()
        rows = measure(area, console)
        console.print(table(area, rows))
        RESULTS.mkdir(parents=True, exist_ok=True)
        written = RESULTS / f"{area}.json"
        written.write_text(json.dumps({"machine": before, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
        console.print(f"written: {written}")


if __name__ == "__main__":
    main(sys.argv[1:])
