"""The page of planted causes: what the verdicts said of each, as a grid and in numbers, and every variation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.figures import Plot
from sftfilter.report.frame import provenance_of
from sftfilter.report.heat import Shade, heat
from sftfilter.report.shell import write_page
from sftfilter.report.tables import Cell, Table, table_of

JUDGED = {"right": "good", "incomplete": "unknown", "undecided": "unknown", "wrong": "bad"}
"""How a verdict compares with the truth, and its style."""


def write_worlds_page(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write `folder/index.html` and return its path.

    Args:
        results: as in worlds.json.
    """
    found = f.clean(results)
    confusion, variations = f.part(found, "confusion"), f.items(found, "variations")
    grid = _grid(confusion, variations)
    view = provenance_of(found) | {
        "kind": "worlds",
        "headline": _headline(f.part(found, "shares"), len(variations)),
        "grid": grid,
        "confusion_table": _confusion(confusion, variations),
        "statuses_table": _statuses(f.part(found, "statuses")),
        "variations_table": _variations(variations),
        "told": {name: _span(seeds) for name, seeds in f.part(found, "seeds").items()},
        **dict.fromkeys(("students_table", "failed_table", "stopped_table")),
    }
    data = {"variations": [_line(one) for one in variations]}
    return write_page(folder / "index.html", "worlds.html.j2", "worlds.js.j2", view, data, [grid])


def _headline(shares: Mapping[str, Any], count: int) -> list[dict[str, str]]:
    notes = {"right": f"of {count} verdicts", "incomplete": "some of several causes", "undecided": "no cause named",
             "wrong": "a cause named or denied falsely"}  # fmt: skip
    return [{"label": word, "value": f.percent(shares.get(word)), "note": note} for word, note in notes.items()]


def _named(confusion: Mapping[str, Mapping[str, int]], variations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Verdicts, the most frequent right one of each planted cause first and in its order, so that they lie on a diagonal."""
    right = {(one["planted"], one["named"]) for one in variations if one["judged"] == "right"}
    diagonal = (next((n for n in row if (planted, n) in right), None) for planted, row in confusion.items())
    return list(dict.fromkeys([*filter(None, diagonal), *(name for row in confusion.values() for name in row)]))


def _span(seeds: Sequence[int]) -> str:
    """`0 to 19`, or each of them."""
    run = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))


def _grid(confusion: Mapping[str, Mapping[str, int]], variations: Sequence[Mapping[str, Any]]) -> Plot | None:
    if not confusion:
        return None
    names = _named(confusion, variations)
    cells = {
        (planted, name): Shade(row[name] / sum(row.values()), [f"{row[name]} of {sum(row.values())}"])
        for planted, row in confusion.items()
        for name in row
    }
    told = [f"{planted}: {', '.join(f'{n} x {name}' for name, n in row.items())}" for planted, row in confusion.items()]
    alt = f"What was planted, and how often the verdict said what. {'; '.join(told)}."
    return heat("confusion", alt, list(confusion), names, cells, 1.0, ("planted cause", "verdict"))


def _confusion(confusion: Mapping[str, Mapping[str, int]], variations: Sequence[Mapping[str, Any]]) -> Table:
    names = _named(confusion, variations)
    judged = Counter((one["planted"], one["judged"]) for one in variations)
    rows = [
        [planted, *(f.count(row[name]) if name in row else "" for name in names),
         *(f.count(judged[planted, word]) for word in JUDGED)]
        for planted, row in confusion.items()
    ]  # fmt: skip
    columns = ["planted cause", *(f"verdict: {name}" for name in names), *JUDGED]
    return table_of("Planted causes and verdicts", columns, rows, range(1, len(columns)))


def _statuses(statuses: Mapping[str, Any]) -> Table | None:
    rows = [[word, f.count(one.get("true")), f.count(one.get("of"))] for word, one in statuses.items()]
    columns = ["hypotheses called", "truly so", "of"]
    return table_of("Single hypotheses in all variations", columns, rows, (1, 2)) if rows else None


def _variations(variations: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = [
        [f"{one['kind']} {one['seed']}", one["planted"], one["named"], Cell(one["judged"], JUDGED[one["judged"]]),
         ", ".join(one["mistakes"]), f.count(f.part(one, "record").get("students")),
         f.duration(f.part(one, "record").get("seconds"))]
        for one in variations
    ]  # fmt: skip
    columns = ["world, seed", "planted", "verdict", "judged", "mistakes", "students", "time"]
    return table_of("Every variation", columns, rows, (5, 6)) if rows else None


def _line(one: Mapping[str, Any]) -> dict[str, Any]:
    """A variation as a line of the CSV."""
    told = {key: one[key] for key in ("kind", "seed", "planted", "named", "judged")}
    statuses = f.part(one, "record", "hypotheses")
    return told | {"mistakes": ", ".join(one["mistakes"])} | {f"hypothesis {n}": statuses[n] for n in statuses}
