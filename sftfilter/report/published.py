"""What a study elsewhere published, beside what this run measured: never in one column, and labelled as not measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.tables import Cell, Table, group_names, table_of

Figure = Mapping[str, Any]
Own = Callable[[Figure], Mapping[str, Any]]
"""From a published figure to this run's estimate of the same; empty where it has none."""

CAPTION = "Published elsewhere, not measured here, beside this run's own"
_COLUMNS = ("What", "Published elsewhere, not measured here", "This run", "Source")


def published_table(figures: Sequence[Figure], own: Own) -> Table | None:
    """A row for each figure; None where the spec states none."""
    rows = [
        [
            Cell(str(one.get("label") or f.MISSING), note=_what(one)),
            _published(one),
            _own(one, own(one)),
            one.get("source"),
        ]
        for one in figures
    ]
    return table_of(CAPTION, _COLUMNS, rows) if rows else None


def of_arms(arms: Sequence[Mapping[str, Any]]) -> Own:
    """An experiment's own estimate, on the trait's own group: a rate, or another of the trait's measures."""
    by_name = {arm.get("name"): arm for arm in arms}

    def own(figure: Figure) -> Mapping[str, Any]:
        arm, trait = by_name.get(figure.get("of"), {}), str(figure.get("trait"))
        group = next(iter(group_names(arms, trait)), "")
        if figure.get("measure"):
            return f.part(arm, "measures", trait, group, str(figure["measure"]))
        return f.part(arm, "traits", trait, group)

    return own


def of_rows(rows: Sequence[Mapping[str, Any]]) -> Own:
    """A lattice's own rate of a cell or of an arm of its curves, on the trait's own group."""
    known = {(row.get("cell") or row.get("arm"), row.get("trait")): row for row in reversed(rows) if row.get("primary")}

    def own(figure: Figure) -> Mapping[str, Any]:
        return {} if figure.get("measure") else known.get((figure.get("of"), figure.get("trait")), {})

    return own


def _what(figure: Figure) -> str:
    trait, measure = figure.get("trait"), figure.get("measure")
    return " ".join(str(part) for part in (trait, f"(mean {measure})" if measure else "") if part)


def _published(figure: Figure) -> Cell:
    value, says = figure.get("value"), str(figure.get("says") or "")
    if value is None:
        return Cell(says)
    return Cell(f.number(value, 2) if figure.get("measure") else f.percent(value), note=says)


def _own(figure: Figure, found: Mapping[str, Any]) -> Cell:
    if figure.get("of") is None:
        return Cell("no arm of this spec is its like")
    if figure.get("trait") is None:
        return Cell(str(figure["of"]))
    if found.get("estimate") is None:
        return Cell("not measured", note=str(figure["of"]))
    text = f.interval_text(found) if figure.get("measure") else f.rate_text(found)
    return Cell(text, note=str(figure["of"]))
