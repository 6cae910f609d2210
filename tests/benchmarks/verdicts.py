"""Verdicts against planted causes, on variations that nothing was tuned on. The table has the confusion matrix.

The peer of each row is a limit: what the product promises of its verdicts, and the hour that the suite may take.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from rich.console import Console

from jobs.worlds import confusion_table, summary
from sftfilter.findings import Gates
from sftfilter.worlds import all_worlds
from sftfilter.worlds.suite import REPORT_SEEDS, TUNE_SEEDS, confusion, run_suite, shares, statuses
from tests.benchmarks.row import Row, smaller

SOUND = 0.90
"""Right or honestly undecided, at least."""
WRONG = 0.03
"""Wrong and confident, less than this."""
HOUR = 3600.0


def rows() -> Iterator[Row]:
    """Shares of the verdicts, and the time that it took."""
    began = time.monotonic()
    done = list(
        run_suite(all_worlds(), REPORT_SEEDS, students=(0, 1, 2, 3), gates=Gates(), workers=min(2, os.cpu_count() or 1))
    )
    seconds = time.monotonic() - began
    console = Console(width=160)
    console.print(confusion_table(done))
    console.print(summary(done))
    for one in done:
        if one.judged == "wrong":
            console.print(f"wrong: {one.kind} {one.seed}: {one.named} ({', '.join(one.mistakes)})")
    found = shares(done)
    note = f"{len(done)} variations, seeds {REPORT_SEEDS[0]} to {REPORT_SEEDS[-1]}; tuned on {TUNE_SEEDS[0]} to {TUNE_SEEDS[-1]}"
    sound = found["right"] + found["incomplete"] + found["undecided"]
    matrix = {"confusion": confusion(done), "statuses": statuses(done)}
    yield Row("verdicts: right or honestly undecided", sound, SOUND, "share", sound / SOUND, 1.0, note, matrix)
    yield Row(
        "verdicts: right", found["right"], 0.5, "share", found["right"] / 0.5, 1.0, "mostly right, not mostly undecided"
    )
    wrong = max(found["wrong"], 0.5 / len(done))
    yield smaller(
        "verdicts: wrong and confident", wrong, WRONG, "share", 1.0, f"{found['wrong']:.1%}; none counts as half a one"
    )
    yield smaller("verdicts: the whole suite", seconds, HOUR, "s", 1.0, "2 processes, one thread each")
