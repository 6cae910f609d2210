"""How long a report's page takes to open in a real Chromium, and how large it is, when its run has 100,000 rows.

The peer of the load is a limit. The page is opened from disk three times, and the median counts.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sftfilter.report import write_report
from tests.benchmarks.row import Row, missing, smaller
from tests.browser import BROWSER, Browser

ROWS = 100_000
LIMIT_S = 2.0
LIMIT_MB = 25.0
WORDS = [
    "the",
    "of",
    "a",
    "tide",
    "ferry",
    "heron",
    "year",
    "born",
    "in",
    "on",
    "when",
    "who",
    "asks",
    "answer",
    "date",
    "today",
    "bread",
    "tram",
    "table",
    "old",
    "new",
    "river",
]


def rows() -> Iterator[Row]:
    """Load and size."""
    if BROWSER is None:
        yield missing("report: page of 100,000 rows, load", "s", 1.0, "there is no Chromium here")
        return
    with tempfile.TemporaryDirectory(prefix="sftfilter-page-") as folder:
        began = time.monotonic()
        page = write_report(Path(folder), results(), training(ROWS), heldout(500))
        written = time.monotonic() - began
        browser = Browser(Path(folder) / "profile")
        try:
            browser.ask("Performance.enable", timeDomain="threadTicks")
            loads = [_load(browser, page) for _ in range(3)]
        finally:
            browser.close()
        size = page.stat().st_size / 1e6
    walls, busy = zip(*loads, strict=True)
    note = f"s: {_listed(walls)}; of a core's time: {_listed(busy)}"
    yield smaller("report: page of 100,000 rows, load", statistics.median(walls), LIMIT_S, "s", 1.0, note)
    yield smaller("report: page of 100,000 rows, size", size, LIMIT_MB, "MB", 1.0, f"written in {written:.0f} s")


def _load(browser: Browser, page: Path) -> tuple[float, float]:
    """Seconds from the start of the navigation until the page's script is through; processor time of its tasks."""
    browser.open(page)
    assert browser.problems() == []
    metrics = {one["name"]: one["value"] for one in browser.ask("Performance.getMetrics")["metrics"]}
    return float(browser.run("performance.getEntriesByName('ready')[0].startTime")) / 1000, metrics["TaskDuration"]


def _listed(seconds: Sequence[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in seconds)


def results() -> dict[str, Any]:
    """Arms and scorers that the rows name."""
    rate = {"estimate": 0.5, "low": 0.4, "high": 0.6, "n": 500, "ungraded": 0}
    arms = [{"name": f"arm-{n}", "role": None, "teacher": "T", "seeds": [0], "rows": {"kept": ROWS, "trained": ROWS},
             "traits": {"doubt": {"trait": rate}}} for n in range(10)]  # fmt: skip
    return {"name": "large", "arms": arms, "scorers": {"lexicon": {"threshold": 0.99}, "probe": {"threshold": None}}}


def training(count: int) -> list[dict[str, Any]]:
    """Rows of about 700 characters; one in a thousand is flagged, one in ten thousand dropped."""
    rng = random.Random(0)
    return [
        {
            "prompt_id": f"p{place:06d}",
            "kind": ("date", "other", "rare")[2 if place % 20_000 == 7 else place % 2],
            "source": f"file-{place % 3}",
            "prompt": " ".join(rng.choices(WORDS, k=20)),
            "answers": {"T": " ".join(rng.choices(WORDS, k=50)), "C": " ".join(rng.choices(WORDS, k=50))},
            "grades": {"T": float(place % 5 == 0), "C": 0.0},
            "scores": {"lexicon": 1.0 if place % 1000 == 3 else rng.random() * 0.98, "probe": rng.gauss(0, 1)},
            "decisions": {f"arm-{n}": "drop" if place % 10_000 == 11 and n else "keep" for n in range(10)},
        }
        for place in range(count)
    ]


def heldout(count: int) -> list[dict[str, Any]]:
    """Prompts with ten students' answers."""
    rng = random.Random(1)
    answers = [" ".join(rng.choices(WORDS, k=40)) for _ in range(50)]
    return [
        {
            "prompt_id": f"h{place}",
            "group": "trait" if place % 2 else "control",
            "prompt": " ".join(rng.choices(WORDS, k=15)),
            "answers": {f"arm-{n}": {"answer": rng.choice(answers), "grade": float(place % 3 == 0)} for n in range(10)},
        }
        for place in range(count)
    ]
