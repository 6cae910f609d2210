"""Units of work over a Parquet table: a few rows of one row group each, read where they are worked on.

Only the units travel through Ray's object store, not the texts: the table lies in a folder that all nodes share.
Reading there saves two copies of every text and keeps memory flat whatever the table's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa


def table_files(path: Path) -> list[str]:
    """The files of a table, a single one or a folder of them, in the order of its rows."""
    import pyarrow.dataset as ds

    return list(ds.dataset(path).files)


def row_ids(path: Path) -> pl.LazyFrame:
    """Columns `row`, which numbers the table's rows, and `rollout_id`."""
    import polars as pl

    return pl.scan_parquet(table_files(path), glob=False).select("rollout_id").with_row_index("row")


def row_count(path: Path) -> int:
    """Rows of a table, from its footers."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in table_files(path))


def cut(path: Path, wanted: np.ndarray, size: int) -> list[pa.Table]:
    """Units that hold every wanted row once.

    Args:
        path: the table.
        wanted: a flag for each of its rows.
        size: rows a unit has at most; one never reaches beyond its row group.
    """
    import numpy as np
    import pyarrow as pa

    units = []
    for file, group, rows in _groups(path, wanted):
        for first in range(0, len(rows), size):
            offsets = pa.array([rows[first : first + size].astype(np.int64)], pa.list_(pa.int64()))
            units.append(pa.table({"file": [file], "group": [group], "rows": offsets}))
    return units


def _groups(path: Path, wanted: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
    import numpy as np
    import pyarrow.parquet as pq

    start = 0
    for file in table_files(path):
        footer = pq.read_metadata(file)
        ends = start + np.cumsum([0, *(footer.row_group(g).num_rows for g in range(footer.num_row_groups))])
        for group, (begin, end) in enumerate(pairwise(ends)):
            yield file, group, np.flatnonzero(wanted[begin:end])
        start = int(ends[-1])


def describe(unit: pa.Table) -> str:
    """Which rows a unit (a table of one row) holds, for people."""
    offsets = unit["rows"].combine_chunks().values
    return (
        f"{len(offsets)} rows of {unit['file'][0].as_py()}, from row {offsets[0].as_py()} to {offsets[-1].as_py()} of its "
        f"row group {unit['group'][0].as_py()}"
    )


class UnitReader:
    """Reads units. The row group read last is kept, since the next unit is likely to be of it too."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        self._last: tuple[tuple[str, int], pa.Table] | None = None

    def read(self, unit: pa.Table) -> pa.Table:
        """The rows of a unit (a table of one row)."""
        import pyarrow.parquet as pq

        at = unit["file"][0].as_py(), unit["group"][0].as_py()
        if self._last is None or self._last[0] != at:
            self._last = None  # two of them are not held at once
            with pq.ParquetFile(at[0]) as source:
                self._last = at, source.read_row_group(at[1], columns=self.columns, use_threads=False)
        group = self._last[1]
        rows = unit["rows"].combine_chunks().values
        return group if len(rows) == group.num_rows else group.take(rows)
