"""What `inspect` prints: histograms, agreement and rows of each decile, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.score_tables import pairing_table, plain_table
from sftfilter.inspection.spread import OF
from sftfilter.report.formats import MISSING, percent, short_number

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 30
_CELL = 66


def sparkline(counts: Sequence[int], width: int = _WIDTH) -> str:
    """Bars of eighths, the highest full; a bin without rows is a blank, one with any row is never blank."""
    most = max(counts, default=0)
    wide = max(1, width // max(len(counts), 1))
    bars = (" " if not n else _BLOCKS[max(0, -(-n * len(_BLOCKS) // most) - 1)] for n in counts)
    return "".join(bar * wide for bar in bars).ljust(width)[:width]


def printable(text: str | None, length: int = _CELL) -> Text:
    """A text cut to a cell; control characters, which a terminal would obey, become blanks."""
    if text is None:
        return Text(MISSING)
    flat = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())
    return Text(flat if len(flat) <= length and len(text) <= 4 * length else flat[: length - 1] + "…")


def histograms(findings: Mapping[str, Any]) -> Table:
    """A line for each scorer and group: the bars, rows and errors, mean and median where the group is a teacher."""
    table = plain_table("Spread (all rows, each line to its own height)")
    table.add_column("scorer and group", max_width=22, no_wrap=True)
    table.add_column("low to high", width=_WIDTH, no_wrap=True)
    for heading in ("rows", "errors", "mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    for scorer, found in findings["histograms"].items():
        if found is None:
            table.add_row(Text(scorer, style="bold"), "no row has a score")
            table.add_section()
            continue
        low, high = short_number(found["bins"][0]["low"]), short_number(found["bins"][-1]["high"])
        table.add_row(Text(scorer, style="bold"), f"{low}{high.rjust(_WIDTH - len(low))}")
        for column, groups in found["by"].items():
            for group, counts in groups.items():
                own = findings["scores"].get(group, {}).get(scorer) if column == "teacher" else None
                errors, mean = (f"{own['errors']:,}", short_number(own["mean"])) if own else ("", "")
                label = _label(column, group)
                table.add_row(Text("  ") + printable(label, 20), sparkline(counts), f"{sum(counts):,}", errors, mean)
        table.add_section()
    return table


def _label(column: str, group: str) -> str:
    """What tells a line from its neighbours comes first, since the end is cut."""
    if column == "teacher":
        return group
    if column.startswith(OF):
        return f"{_short(group)} of {column.removeprefix(OF)}"
    return f"{column} {_short(group)}"


def _short(group: str) -> str:
    return group.rstrip("/").rsplit("/", 1)[-1] or group


def agreement(findings: Mapping[str, Any]) -> Table:
    """Every pair of scorers (and the answer's length) within each teacher; a shared top tenth of 10 % is chance."""
    found = findings["agreement"]
    table = plain_table("Agreement: rank correlation, shared top tenth")
    table.add_column("pair", max_width=28, no_wrap=True)
    for teacher in found:
        table.add_column(f"{teacher} rho", justify="right", no_wrap=True)
        table.add_column(f"{teacher} top", justify="right", no_wrap=True)
    columns = next(iter(found.values()))["columns"]
    for i, j in _pairs(len(columns)):
        cells = []
        for matrices in found.values():
            cells += [short_number(matrices["rank_correlation"][i][j]), percent(matrices["top_decile"][i][j])]
        table.add_row(f"{columns[i]} ~ {columns[j]}", *cells)
    return table


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(count) for j in range(i + 1, count))


def decile_rows(findings: Mapping[str, Any], teacher: str) -> Iterator[Table]:
    """For each scorer, a row of each decile of one teacher, beside what the other teachers answered."""
    for scorer, teachers in findings["strata"].items():
        parts = teachers.get(teacher)
        if not parts:
            continue
        others = [name for name in teachers if name != teacher][:1]
        table = plain_table(f"{scorer}: one row of each decile of {teacher}, highest first")
        table.add_column("decile", no_wrap=True)
        table.add_column("score", justify="right", no_wrap=True)
        for heading in ("prompt", teacher, *others):
            table.add_column(heading, ratio=1)
        for part in reversed(parts):
            row = findings["rows"][part["sample"][len(part["sample"]) // 2]]
            answered = {other["teacher"]: other["completion"] for other in row["others"]}
            texts = [row["last_turn"], row["completion"], *(answered.get(name) for name in others)]
            table.add_row(decile_label(part), short_number(row["scores"][scorer]), *map(printable, texts))
        table.expand = True
        yield table


def decile_label(part: Mapping[str, Any]) -> str:
    """`10`, or `1-7` where one score fills several deciles."""
    return str(part["first"]) if part["first"] == part["last"] else f"{part['first']}-{part['last']}"


def errors(findings: Mapping[str, Any]) -> Table | None:
    """Why rows have no score; None when all have one."""
    lines = [(scorer, line) for scorer, found in findings["reasons"].items() for line in found]
    if not lines:
        return None
    table = plain_table("Rows without a score")
    table.add_column("scorer", max_width=16, no_wrap=True)
    table.add_column("teacher", max_width=12, no_wrap=True)
    table.add_column("rows", justify="right")
    table.add_column("reason", ratio=1)
    for scorer, line in lines:
        table.add_row(scorer, line["teacher"], f"{line['rows']:,}", printable(line["reason"], 160))
    return table


def kappa(selections: Mapping[str, Any]) -> Table | None:
    """Cohen's kappa of the selectors, by teacher; None with fewer than two."""
    pairs = [
        (teacher, names[i], names[j], found)
        for teacher, found in selections.items()
        for names in [found["selectors"]]
        for i, j in _pairs(len(names))
    ]
    if not pairs:
        return None
    table = plain_table("Selectors: Cohen's kappa over the teacher's rows")
    for heading in ("teacher", "selector", "rows", "selector", "rows", "kappa"):
        table.add_column(
            heading, justify="right" if heading in ("rows", "kappa") else "left", no_wrap=True, max_width=20
        )
    for teacher, first, second, found in pairs:
        i, j = found["selectors"].index(first), found["selectors"].index(second)
        rows = [f"{found['rows'][name]:,}" for name in (first, second)]
        table.add_row(teacher, first, rows[0], second, rows[1], short_number(found["kappa"][i][j]))
    return table


def checks(findings: Mapping[str, Any]) -> Table | None:
    """What the guards counted; what they found is on the page. None when none ran."""
    found = findings.get("checks", [])
    if not found:
        return None
    table = plain_table("Guards")
    table.add_column("guard", no_wrap=True)
    table.add_column("counts", ratio=1)
    for one in found:
        table.add_row(one["guard"], ", ".join(f"{key.replace('_', ' ')} {n:,}" for key, n in one["counts"].items()))
    return table


def everything(findings: Mapping[str, Any]) -> RenderableType:
    """All of it, in the order in which a person asks."""
    first = next(iter(findings["scores"]))
    shown = [
        pairing_table(findings["pairing"]),
        histograms(findings),
        agreement(findings),
        kappa(findings.get("selections", {})),
        errors(findings),
        checks(findings),
    ]
    parts = [part for part in [*shown, *decile_rows(findings, first)] if part is not None]
    return Group(*(piece for part in parts for piece in (part, "")))
