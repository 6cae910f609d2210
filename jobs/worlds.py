"""Job `worlds`: the planted-cause suite, its confusion matrix as a table and a page, and every variation as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from jobs.console import Stages
from jobs.kinds.worlds import Worlds
from jobs.records import base_record, write_json
from sftfilter.disk import disk_errors
from sftfilter.worlds.suite import (
    REPORT_SEEDS,
    TUNE_SEEDS,
    Variation,
    confusion,
    intervals,
    run_suite,
    shares,
    statuses,
)


def run_worlds(spec: Worlds, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Judge, compare, print, write `worlds.json` and the page."""
    from sftfilter.report.worlds import write_worlds_page

    done: list[Variation] = []
    total = len(spec.worlds) * len(spec.variations)
    with stages.stage("worlds", spec.summary()), stages.bar(total, "worlds") as bar:
        for one in run_suite(
            spec.worlds, spec.variations, students=spec.seeds, gates=spec.gates, workers=min(spec.workers, total)
        ):
            done.append(one)
            bar.advance()
            stages.console.print(f"  {one.judged:<10} {one.kind} {one.seed}: {one.named}", highlight=False)
    record = base_record(spec, stages, command) | {
        "seeds": {"tuned_on": list(TUNE_SEEDS), "reported_on": list(REPORT_SEEDS), "these": list(spec.variations)},
        "shares": shares(done),
        "intervals": intervals(done),
        "confusion": confusion(done),
        "statuses": {word: {"true": true, "of": of} for word, (true, of) in statuses(done).items()},
        "variations": [asdict(one) for one in done],
    }
    folder = root / spec.name
    with disk_errors(folder):
        page = write_worlds_page(folder / "report", record)
        write_json(folder / "worlds.json", record)
    stages.console.print(confusion_table(done))
    stages.console.print(summary(done))
    stages.console.print(f"Worlds: {folder / 'worlds.json'}\nReport: {page}", soft_wrap=True)
    return record


def confusion_table(done: Sequence[Variation]) -> Table:
    """A row for each planted cause: what the verdicts said, and how many were right."""
    table = Table(title="planted cause and verdict", title_justify="left")
    table.add_column("planted")
    table.add_column("verdicts")
    for word in ("right", "incomplete", "undecided", "wrong"):
        table.add_column(word, justify="right")
    for planted, named in confusion(done).items():
        here = [one for one in done if one.planted == planted]
        counts = [sum(one.judged == word for one in here) for word in ("right", "incomplete", "undecided", "wrong")]
        table.add_row(planted, "\n".join(f"{count} x {name}" for name, count in named.items()), *map(str, counts))
    return table


def summary(done: Sequence[Variation]) -> str:
    """Shares with their 95 % intervals, in a line."""
    found, sure = shares(done), intervals(done)
    parts = [
        f"{word} {found[word]:.0%} [{sure[word][0]:.0%}-{sure[word][1]:.0%}]"
        for word in ("right", "incomplete", "undecided", "wrong")
    ]
    of = [f"{word} and true: {true} of {n}" for word, (true, n) in statuses(done).items()]
    return f"{len(done)} variations: {', '.join(parts)}. Hypotheses {'; '.join(of)}."
