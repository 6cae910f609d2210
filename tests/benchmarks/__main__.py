"""`python -m tests.benchmarks scoring`: measure, print a table, write runs/bench/AREA.json.

`python -m tests.benchmarks scoring/decide` measures one part again; the file keeps what it says of the others.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.row import Row, missing

AREAS = {
    "scoring": ("lexicon_speed", "lexicon_memory", "decide", "scoring_models"),
    "training": ("training", "training_arms"),
    "equivalence": ("equivalence",),
    "serving": ("serving",),
    "verdicts": ("verdicts",),
    "report": ("report_page",),
}
"""Parts of each area: modules of this package with `rows()` that yields a `Row` as soon as it is measured."""

RESULTS = Path("runs/bench")


def measure(part: str, console: Console) -> list[Row]:
    """Every row of a part; one that fails ends with a row that says why."""
    made: list[Row] = []
    began = time.monotonic()
    console.print(f"[bold]{part}[/]")
    try:
        for row in importlib.import_module(f"{__package__}.{part}").rows():
            made.append(row)
            console.print(f"  {time.monotonic() - began:5.0f} s  {row.name}: {_figure(row)}")
    except Exception as problem:
        traceback.print_exc()
        made.append(missing(part, "", None, f"{type(problem).__name__}: {problem}"[:300]))
    return made


def _figure(row: Row) -> str:
    if row.ours is None:
        return f"not measured: {row.note}"
    if row.ratio is None:
        return f"{row.ours:,.4g} {row.unit}"
    return f"{row.ours:,.4g} against {row.peer:,.4g} {row.unit}, ratio {row.ratio:.2f}"


def table(area: str, lines: list[dict[str, Any]]) -> Table:
    """The rows of the file, aligned for the terminal."""
    made = Table(title=f"benchmark: {area}", title_justify="left")
    for heading in ("name", "ours", "peer", "unit", "ratio", "goal", "", "note"):
        made.add_column(heading, justify="right" if heading in {"ours", "peer", "ratio", "goal"} else "left")
    for row in (Row(**{field.name: line[field.name] for field in fields(Row) if field.name in line}) for line in lines):
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
    """Measure what is named, areas or parts of one, or everything."""
    wanted: dict[str, list[str]] = {}
    for argument in arguments or AREAS:
        area, _, part = argument.partition("/")
        if area not in AREAS or (part and part not in AREAS[area]):
            sys.exit(f"unknown: {argument}; there are: {', '.join(f'{a}/{p}' for a in AREAS for p in AREAS[a])}")
        wanted.setdefault(area, []).extend([part] if part else AREAS[area])
    console = Console(width=None if sys.stdout.isatty() else 160)
    for area, parts in wanted.items():
        written = RESULTS / f"{area}.json"
        lines = json.loads(written.read_text())["rows"] if written.exists() else []
        for part in parts:
            before = machine()
            lines = [line for line in lines if line["part"] != part]
            lines += [{"part": part, **asdict(row), "measured": before} for row in measure(part, console)]
            lines.sort(key=lambda line: AREAS[area].index(line["part"]))
            RESULTS.mkdir(parents=True, exist_ok=True)
            written.write_text(json.dumps({"rows": lines}, indent=2) + "\n")
        console.print(table(area, lines))
        console.print(f"written: {written}")


if __name__ == "__main__":
    main(sys.argv[1:])
