"""The page of a carrier search: what of the set is confirmed, its prompts, the controls, and every test that led there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report import tables, words
from sftfilter.report.dots import forest
from sftfilter.report.frame import asked, frame_of
from sftfilter.report.published import of_rows, published_table
from sftfilter.report.shell import write_page
from sftfilter.report.tables import Cell, Table, table_of

_STYLES = {"confirmed": "good", "not confirmed": "bad"}
_WAYS = {"swap": "swapped: share left", "transfer": "alone: share brought"}


def write_carriers_page(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write `folder/index.html` and return its path.

    Args:
        results: as in results.json of a carrier search.
    """
    found = f.clean(results)
    counts, verdict, chosen = f.part(found, "counts"), f.part(found, "verdict"), f.part(found, "set")
    size = {"label": "prompts in the set", "value": f.count(chosen.get("prompts")) if chosen else f.MISSING,
            "note": f"of {f.count(counts.get('prompts'))}; {asked(counts)}"}  # fmt: skip
    arms, tests = f.items(found, "arms"), f.items(found, "tests")
    plot = forest(f.part(found, "estimands"))
    view = frame_of(found, "carriers", size) | {
        "verdict": {key: verdict.get(key) for key in ("label", "summary", "reasons")},
        "claims_table": _claims(f.part(verdict, "claims")),
        "chosen": _chosen(chosen),
        "set_table": _prompts(f.items(chosen, "first")),
        "plot": plot,
        "arms_table": _arms(arms),
        "published_table": published_table(f.items(found, "published"), of_rows(arms)),
        "estimands_table": tables.estimands(f.part(found, "estimands")),
        "gates_table": tables.gates(f.items(found, "gates")),
        "searched": _searched(f.part(found, "search"), len(tests)),
        "tests_table": _tests(tests),
        "groups_table": _groups(f.items(found, "groups"), f.items(chosen, "groups")),
    }
    data = {"tests": tests, "arms": arms, "set": f.items(chosen, "first")}
    return write_page(folder / "index.html", "carriers.html.j2", "carriers.js.j2", view, data, [plot])


def _claims(claims: Mapping[str, Any]) -> Table | None:
    rows = [[claim, Cell(str(status), _STYLES.get(str(status), "unknown"))] for claim, status in claims.items()]
    return table_of("Each claim", ["the set is", "on fresh seeds and prompts"], rows) if rows else None


def _chosen(chosen: Mapping[str, Any]) -> str:
    """The set in a sentence, with what the search saw of it."""
    if not chosen:
        return ""
    seen = f.part(chosen, "seen_in_search")
    told = [f"{words} {f.percent(seen[way])}" for way, words in _WAYS.items() if seen.get(way) is not None]
    return (
        f"{f.count(chosen['prompts'])} prompts ({f.percent(chosen['share'])} of all) in {len(chosen['groups'])} of "
        f"{f.count(chosen['of_groups'])} groups: {'; '.join(chosen['groups'])}."
        + (f" The search saw of it: {', '.join(told)}." if told else "")
    )


def _prompts(rows: list[Any]) -> Table | None:
    shown = [
        [Cell(f.short(row["prompt"], 300), note=row["prompt_id"]), row["group"], f.short(row["original"], 300),
         f.short(row["alternate"], 300)]
        for row in rows
    ]  # fmt: skip
    columns = ["prompt", "group", "the original teacher", "the alternate teacher"]
    return (
        table_of(f"The first {len(rows)} prompts of the set, and what both teachers answer", columns, shown)
        if rows
        else None
    )


def _arms(rows: list[Any]) -> Table | None:
    shown = [
        [
            Cell(row["arm"], note=words.role_words(row["role"])),
            f"{row['trait']}, {row['group']}",
            Cell(f.count(row["rows_trained"]), note=row["broken"] or row["problem"] or ""),
            f.rate_text(row),
        ]
        for row in rows
    ]
    columns = ["students", "trait, prompts", "rows", "shows it"]
    return table_of("Every arm of the confirmation", columns, shown, (2,), (3,)) if rows else None


def _searched(search: Mapping[str, Any], tests: int) -> str:
    told = (
        f"{tests} tests and the two ends of the scale took {f.count(search.get('students'))} of "
        f"{f.count(search.get('budget'))} students. On the search's own prompts the original's students show the trait in "
        f"{f.percent(search.get('original'))}, the alternate's in {f.percent(search.get('alternate'))}."
    )
    return told if search.get("finished") else f"{told} The budget ended the search before the halving was through."


def _tests(rows: list[Any]) -> Table | None:
    shown = [
        [
            str(row["test"]),
            _WAYS[row["way"]],
            row["groups"],
            f.count(row["prompts"]),
            f.percent(row["share"]),
            Cell("yes", "good") if row["passed"] else Cell("no", "unknown"),
            f.count(row["students"]),
        ]
        for row in rows
    ]
    columns = ["test", "groups were", "groups", "prompts", "share of the trait", "passed", "students"]
    return table_of("Every test of the search, in order", columns, shown, (3, 4, 6)) if rows else None


def _groups(rows: list[Any], chosen: list[Any]) -> Table | None:
    shown = [[row["group"], f.count(row["prompts"]), "in the set" if row["group"] in chosen else ""] for row in rows]
    return table_of("Every group", ["group", "prompts", "set"], shown, (1,)) if rows else None
