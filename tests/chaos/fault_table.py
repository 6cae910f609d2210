"""The fault table: rows as they are measured go into runs/bench/chaos.json, and from there into the README.

`python -m tests.chaos.fault_table` rewrites the README's table between its two markers.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.conftest import REPOSITORY

FILE = REPOSITORY / "runs" / "bench" / "chaos.json"
README = REPOSITORY / "README.md"
BEGIN, END = "<!-- chaos table: make chaos -->", "<!-- end of chaos table -->"


@dataclass(frozen=True)
class FaultRow:
    """What a fault cost.

    Attributes:
        lost: what was done again.
        recover_s: from the fault to new progress; None where it was not measured.
        identical: whether results, grades and the bytes of every artifact equal the undisturbed run's; None where the
            note says something else, or nothing was run.
        note: what else to know, or why the row was not run.
    """

    fault: str
    stage: str
    lost: str
    recover_s: float | None = None
    identical: bool | None = None
    note: str = ""


def keep(row: FaultRow) -> None:
    """Put a row into the file, in the place of an older one of the same fault and stage."""
    rows = [other for other in read() if (other.fault, other.stage) != (row.fault, row.stage)]
    FILE.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    record = {"machine": machine, "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
    partial = FILE.with_suffix(".partial")
    partial.write_text(json.dumps(record | {"rows": [asdict(r) for r in [*rows, row]]}, indent=2))
    partial.replace(FILE)


def read() -> list[FaultRow]:
    """The rows that are there."""
    return [FaultRow(**row) for row in json.loads(FILE.read_text())["rows"]] if FILE.exists() else []


def table(rows: list[FaultRow]) -> str:
    """As Markdown."""
    lines = ["| fault | during | done again | s to recover | results |", "|---|---|---|---|---|"]
    for row in rows:
        seconds = "-" if row.recover_s is None else f"{row.recover_s:.0f}"
        told = {True: ["identical"], False: ["**differ**"], None: []}[row.identical] + ([row.note] if row.note else [])
        lines.append(f"| {row.fault} | {row.stage} | {row.lost} | {seconds} | {'; '.join(told) or 'not run'} |")
    return "\n".join(lines)


def rewrite(readme: Path = README) -> None:
    """Put the table into the README, between the markers."""
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{table(read())}\n{END}{after}")


if __name__ == "__main__":
    rewrite()
