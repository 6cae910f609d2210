"""How many rows may be quarantined. Checked for an artifact that is reused too, since the budget is no part of its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sftfilter.artifacts import Artifact
from sftfilter.errors import DataError

NAMED = 5


def within_budget(made: Artifact, budget: float) -> Artifact:
    """The artifact, if few enough of its rows were quarantined.

    Args:
        budget: share of the rows read (less those that `where` leaves out) that may be.

    Raises:
        DataError: more were; the first few are named.
    """
    bad = int(made.meta["quarantined"])
    if bad > budget * total(made.meta):
        raise DataError(refusal(made.table("quarantine").slice(0, NAMED).to_pylist(), made.meta, f"{budget:g}"))
    return made


def total(meta: Mapping[str, Any]) -> int:
    """Rows that were asked for."""
    return int(meta["read"]) - int(meta.get("filtered", 0))


def refusal(first: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], budget: str) -> str:
    """Why the rows are not used, the first few by name."""
    named = "\n".join(f"  {r['file']}, row {r['row']}, {r['field']}: {r['reason']}" for r in first)
    bad = int(meta["quarantined"])
    more = f"\n  and {bad - len(first)} more" if bad > len(first) else ""
    return (
        f"{bad} of {total(meta)} rows cannot be used, more than error_budget {budget} allows:\n{named}{more}\n"
        "Mend these rows, or raise `error_budget` in the spec to go on without them."
    )
