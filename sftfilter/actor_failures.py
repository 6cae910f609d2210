"""Errors of ours on their way from a Ray Data actor to the driver: as values, in columns beside the actor's own.

Ray would wrap one that is raised, and start an actor anew whose start failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sftfilter import errors
from sftfilter.errors import SftfilterError

if TYPE_CHECKING:
    import pyarrow as pa


def with_failure(table: pa.Table, failure: SftfilterError | None) -> pa.Table:
    """The table with columns `failure` and `why`; it needs a row for a failure to be told."""
    import pyarrow as pa

    told = {"failure": type(failure).__name__, "why": str(failure)} if failure else {"failure": None, "why": None}
    for name, text in told.items():
        table = table.append_column(name, pa.array([text] * table.num_rows, pa.string()))
    return table


def raise_failure(done: pa.Table) -> None:
    """Raise, with its own class, the error that an actor reported."""
    for name, why in zip(done["failure"].to_pylist(), done["why"].to_pylist(), strict=True):
        if name:
            raise getattr(errors, name, SftfilterError)(why)
