"""The fault table: rows as they are measured go into runs/bench/chaos.json, and from there into the README.

A row belongs to the test that measured it. Rows of tests that are about to run are removed first, so that none outlives
what it was measured on; a test that fails or is skipped leaves a row that says so.

`python -m tests.chaos.fault_table` rewrites the README's table between its two markers.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.conftest import REPOSITORY

FILE = Path(os.environ.get("CHAOS_TABLE", REPOSITORY / "runs" / "bench" / "chaos.json"))
"""Another one for those who build a row."""
README = REPOSITORY / "README.md"
BEGIN, END = "<!-- chaos table: make chaos -->", "<!-- end of chaos table -->"
_STRUCK = ("sftfilter", "jobs", "serve", "cluster", "tests/chaos")
_TOLD = 160
"""Characters of a failure's message that the table shows."""


@dataclass(frozen=True)
class FaultRow:
    """What a fault cost.

    Attributes:
        lost: what was done again.
        recover_s: from the fault to new progress; None where it was not measured.
        identical: whether results, grades and the bytes of every artifact equal the undisturbed run's; None where the
            note says something else, or nothing was run.
        note: what else to know, or why there is nothing to see.
        ended_s: from the fault to the end of the run that met it, where it should end.
        whole_s, undisturbed_s: of whole runs, the struck one and the one left alone.
        test: the test's name.
        commit: of the code that was struck.
        measured: when.
    """

    fault: str
    stage: str
    lost: str
    recover_s: float | None = None
    identical: bool | None = None
    note: str = ""
    ended_s: float | None = None
    whole_s: float | None = None
    undisturbed_s: float | None = None
    test: str = ""
    commit: str = ""
    measured: str = ""

    def told(self) -> str:
        """The last column: how it ended."""
        said = [] if self.identical is None else ["identical" if self.identical else "**differ**"]
        if self.ended_s is not None:
            said.append(f"the struck run ended after {self.ended_s:.0f} s")
        if self.whole_s is not None and self.undisturbed_s is not None:
            said.append(f"{self.whole_s:.0f} s in all, {self.undisturbed_s:.0f} s undisturbed")
        return "; ".join([*said, self.note] if self.note else said) or "not run"


def keep(row: FaultRow, file: Path = FILE) -> None:
    """Put a row into the file, in the place of an older one of the same fault and stage."""
    others = [other for other in read(file) if (other.fault, other.stage) != (row.fault, row.stage)]
    _write([*others, replace(row, commit=_commit(), measured=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")], file)


def clear(tests: Collection[str], file: Path = FILE) -> None:
    """Remove the rows of some tests, and rows that belong to none."""
    if file.exists():
        _write([row for row in read(file) if row.test and row.test not in tests], file)


def failed(test: str, fault: str, stage: str, why: str, file: Path = FILE) -> None:
    """Put what came of a test that did not pass in the place of its rows, unless these say that results differ."""
    rows = [row for row in read(file) if row.test == test]
    if any(row.identical is False for row in rows):
        return
    clear([test], file)
    keep(FaultRow(fault, stage, "-", note=" ".join(why.split())[:_TOLD].replace("|", "/"), test=test), file)


def read(file: Path = FILE) -> list[FaultRow]:
    """The rows that are there."""
    return [FaultRow(**row) for row in json.loads(file.read_text())["rows"]] if file.exists() else []


def table(rows: list[FaultRow]) -> str:
    """As Markdown, with the commits that were struck."""
    lines = ["| fault | during | done again | s to recover | results |", "|---|---|---|---|---|"]
    for row in rows:
        seconds = "-" if row.recover_s is None else f"{row.recover_s:.0f}"
        lines.append(f"| {row.fault} | {row.stage} | {row.lost} | {seconds} | {row.told()} |")
    commits = sorted({row.commit for row in rows})
    counts = ", ".join(f"{sum(row.commit == one for row in rows)} at {one}" for one in commits)
    return "\n".join([*lines, "", f"Rows by commit: {counts}."])


def rewrite(readme: Path = README, file: Path = FILE) -> None:
    """Put the table into the README, between the markers."""
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{table(read(file))}\n{END}{after}")


def _write(rows: list[FaultRow], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=2))
    partial.replace(file)


def _commit() -> str:
    """The code's commit, and whether there is more than it has."""
    git = ["git", "-C", str(REPOSITORY)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "--", *_STRUCK], capture_output=True, check=False)
    return (head.stdout.strip() or "no commit") + (" and changes" if changed.stdout.strip() else "")


if __name__ == "__main__":
    rewrite()
