"""What guards found, in rows that a person can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sftfilter.artifacts import Artifact

_SHOWN = 20


@dataclass(frozen=True)
class GuardReport:
    """One guard's result.

    Attributes:
        guard: `duplicates`, `contamination` or `token lengths`.
        artifact: its tables, and counts in `meta`.
        table: the table of the artifact that is shown first.
        columns: of that table, those worth showing.
    """

    guard: str
    artifact: Artifact
    table: str
    columns: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Counts that add up, for a report."""
        return {name: value for name, value in self.artifact.meta.items() if isinstance(value, int)}

    def rows(self, limit: int = _SHOWN) -> list[tuple[str, ...]]:
        """The first rows as text, a cell for each of `columns`."""
        rows = self.artifact.table(self.table).select(list(self.columns)).slice(0, limit).to_pylist()
        return [tuple(_cell(row[name]) for name in self.columns) for row in rows]


def duplicates_report(artifact: Artifact) -> GuardReport:
    """Clusters, those with the most rows first."""
    return GuardReport(
        "duplicates", artifact, "clusters", ("side", "rows", "distinct", "splits", "teachers", "sources", "example")
    )


def contamination_report(artifact: Artifact) -> GuardReport:
    """Pairs of a training text and an evaluation prompt."""
    columns = ("side", "teacher", "id", "text", "evaluation", "evaluation_id", "evaluation_text", "share", "span")
    return GuardReport("contamination", artifact, "overlaps", columns)


def lengths_report(artifact: Artifact) -> GuardReport:
    """Quantiles by teacher and source."""
    columns = [field.name for field in artifact.table("summary").schema]
    return GuardReport("token lengths", artifact, "summary", tuple(columns))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value if item)
    if isinstance(value, float):
        return f"{value:.2f}"
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
