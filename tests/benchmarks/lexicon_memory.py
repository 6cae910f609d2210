"""Memory of scoring: the peak of the whole process tree with the lexicon scorer, and how it grows with the table."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.benchmarks.chat_rows import chat_rows, rows_wanted
from tests.benchmarks.row import Row, run_lines, smaller


def rows() -> Iterator[Row]:
    """GiB at a million rows against the limit, and at four million against that."""
    count = rows_wanted()
    small = _peak(count)
    yield smaller(f"peak memory of the process tree, {count:,} rows, against 4 GiB", small, 4.0, "GiB", 1.0)
    large = _peak(4 * count)
    yield smaller(f"peak memory, {4 * count:,} rows against {count:,}", large, small, "GiB", 1 / 1.2)


def _peak(count: int) -> float:
    chat_rows(count)
    said = run_lines([sys.executable, "-m", "tests.benchmarks.lexicon_race", "memory", str(count)])
    return next(line["gib"] for line in said if line["name"] == "peak")
