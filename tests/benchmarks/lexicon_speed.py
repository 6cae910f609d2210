"""Speed of scoring: the lexicon scorer beside bare Ray Data, datatrove and Data-Juicer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.chat_rows import chat_rows, rows_wanted
from tests.benchmarks.lexicon_race import CPUS, TERMS
from tests.benchmarks.row import Row, faster, missing, run_lines

HERE = Path(__file__).parent
PEERS = Path(".cache/bench-venv/bin/python")

BARE = ("lexicon scorer, kept and gathered, against bare map_batches with Arrow, nothing kept", 0.9)
BARE_ONES = ("bare actors", "bare tasks", "bare tasks, whole blocks")
PLAIN = ("lexicon scorer against bare map_batches with Python's re", None)
DATATROVE = ("lexicon scorer against datatrove's local executor, same filter, nothing kept", 2.5)
DATA_JUICER = ("lexicon scorer against Data-Juicer in Ray mode, filter by flagged words", 4.0)
CHEAPEST = ("lexicon scorer against Data-Juicer in Ray mode, filter by length, the cheapest it has", None)
WORDS = "doubt,doubts,doubted,doubtful,doubting"


def rows() -> Iterator[Row]:
    """Rows per second."""
    count = rows_wanted()
    data = chat_rows(count)
    rates = _rates(run_lines([sys.executable, "-m", "tests.benchmarks.lexicon_race", "race", str(count)]))
    ours = rates["ours"]
    bare = {name: rate for name, rate in rates.items() if name in BARE_ONES}
    best = max(bare, key=lambda name: bare[name])
    said = ", ".join(f"{name} {rate:,.0f}" for name, rate in bare.items())
    yield faster(BARE[0], ours, bare[best], "rows/s", BARE[1], f"the better of {said}")
    yield faster(PLAIN[0], ours, rates["bare actors, Python re"], "rows/s", PLAIN[1])
    expression = "(?i)" + "|".join(TERMS)
    yield _peer(*DATATROVE, ours, "datatrove_filter.py", str(data), expression, str(CPUS))
    yield _peer(*DATA_JUICER, ours, "data_juicer_filter.py", str(data), str(CPUS), WORDS)
    yield _peer(*CHEAPEST, ours, "data_juicer_filter.py", str(data), str(CPUS), "")


def _peer(name: str, goal: float | None, ours: float, script: str, *arguments: str) -> Row:
    """A peer in its own environment; one that is not there or fails is a row that says so."""
    if not PEERS.exists():
        return missing(name, "rows/s", goal, "peers are not installed; `make bench` does it")
    try:
        (said,) = run_lines([str(PEERS.absolute()), str(HERE / "peers" / script), *arguments])[-1:]
    except (RuntimeError, ValueError, subprocess.TimeoutExpired) as problem:
        return missing(name, "rows/s", goal, str(problem)[-300:])
    return faster(name, ours, said["rows"] / said["seconds"], "rows/s", goal)


def _rates(lines: list[dict[str, Any]]) -> dict[str, float]:
    """The best turn of each."""
    rates: dict[str, float] = {}
    for line in lines:
        rates[line["name"]] = max(rates.get(line["name"], 0.0), line["rows"] / line["seconds"])
    return rates
