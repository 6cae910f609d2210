"""The rows that a decision leaves to train on, as a file of conversations that other trainers load as it is.

A row has `messages` (role and content, the answer last), which TRL, axolotl and `datasets` read, and where it comes
from: rollout_id, prompt_id, teacher, action, and `order`, its place among the decided rows, the same in every training
set of one teacher. The texts stream from Parquet to the file, and are never all in memory.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sftfilter.disk import disk_errors
from sftfilter.errors import DataError

if TYPE_CHECKING:
    import polars as pl


def write_training_set(path: Path, decisions: Path, sources: Sequence[Path], form: Literal["parquet", "jsonl"]) -> int:
    """Write the file, aside first and then renamed; answers its rows.

    Args:
        decisions: the table `decisions`.
        sources: tables of rollouts, rewritten ones among them, that hold every row trained on.

    Raises:
        DataError: a row that is trained on is in none of the sources.
    """
    import polars as pl

    table = pl.scan_parquet(decisions, glob=False).with_row_index("order")
    trained = table.filter(pl.col("action") != "drop").select(
        "order", "prompt_id", "action", pl.coalesce("replaced_by", "rollout_id").alias("rollout_id")
    )
    wanted = trained.collect()
    rows = pl.concat([_conversations(source, wanted.lazy()) for source in sources])
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as aside:
            whole = Path(aside) / path.name
            if form == "parquet":
                rows.sink_parquet(whole, compression="zstd", compression_level=1)
            else:
                rows.sink_ndjson(whole)
            _check(wanted, whole, form)
            whole.replace(path)
    return wanted.height


def _conversations(source: Path, wanted: pl.LazyFrame) -> pl.LazyFrame:
    import polars as pl

    answer = pl.struct(pl.lit("assistant").alias("role"), pl.col("completion").alias("content"))
    rows = pl.scan_parquet(source, glob=False).select("rollout_id", "messages", "completion", "teacher")
    return rows.join(wanted, on="rollout_id", how="inner", maintain_order="left").select(
        pl.concat_list("messages", answer).alias("messages"), "rollout_id", "prompt_id", "teacher", "action", "order"
    )


def _check(wanted: pl.DataFrame, written: Path, form: Literal["parquet", "jsonl"]) -> None:
    import polars as pl

    rows = pl.scan_parquet(written, glob=False) if form == "parquet" else pl.scan_ndjson(glob.escape(str(written)))
    found = rows.select("rollout_id").collect()
    lost = wanted.join(found, on="rollout_id", how="anti")["rollout_id"]
    if len(lost) or found.height != wanted.height:
        raise DataError(
            f"{wanted.height} rows were decided to train on and {found.height} found among the rollouts; missing: "
            f"{', '.join(lost.head(5).to_list()) or 'none, but some are there twice'}"
        )
