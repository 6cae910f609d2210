"""After an import's tasks: exact duplicates and conflicting rows are found over all parts, named, and taken out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sftfilter.reading.parts import ID_FOLDER, QUARANTINE_FOLDER, ROLLOUT_FOLDER, rewritten
from sftfilter.schema import QUARANTINE

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

DUPLICATES = "duplicates.parquet"
CONFLICTS = "conflicts.parquet"
_NAMED = 5


@dataclass(frozen=True)
class Settled:
    """What was found.

    Attributes:
        duplicates: rows left out because an equal one is used; the table `duplicates` lists them.
        conflicts: rows quarantined because another row contradicts them.
        unanswered: ids of wanted prompts that no used row answers.
        named: `file, row N` of the first few duplicates.
    """

    duplicates: int
    conflicts: int
    unanswered: list[str]
    named: list[str]


def settle(folder: Path, wanted: pa.Array | None) -> Settled:
    """Take duplicates and conflicting rows out of the parts below `folder`; remove the ids that only this needs."""
    import polars as pl

    parts = sorted((folder / ID_FOLDER).glob("part-*.parquet"))
    ids = pl.scan_parquet(parts, glob=False).sort("part", "at").collect()
    bad = _conflicts(ids)
    rest = ids.join(bad.select("part", "at"), on=["part", "at"], how="anti", maintain_order="left")
    twice = _duplicates(rest)
    _write(bad, folder / QUARANTINE_FOLDER / CONFLICTS)
    _write(twice, folder / DUPLICATES, always=True)
    for (part,), rows in pl.concat([bad.select("part", "at"), twice.select("part", "at")]).group_by("part"):
        rewritten(folder / ROLLOUT_FOLDER / f"part-{part:05d}.parquet", set(rows["at"].to_list()))
    unanswered: list[str] = []
    if wanted is not None:
        asked = pl.DataFrame({"prompt_id": wanted})
        unanswered = asked.join(rest, on="prompt_id", how="anti")["prompt_id"].to_list()
    for path in (folder / ID_FOLDER).iterdir():
        path.unlink()
    (folder / ID_FOLDER).rmdir()
    named = [f"{file}, row {row}" for file, row in twice.select("file", "row").head(_NAMED).iter_rows()]
    return Settled(len(twice), len(bad), unanswered, named)


def _conflicts(ids: pl.DataFrame) -> pl.DataFrame:
    """Rows that contradict each other, with field and reason."""
    import polars as pl

    place = pl.struct("part", "at")
    is_first = place == place.first().over("group")
    file, row = (
        pl.when(is_first).then(pl.col(name).last().over("group")).otherwise(pl.col(name).first().over("group"))
        for name in ("file", "row")
    )
    other = pl.when(file == pl.col("file")).then(pl.format("row {}", row)).otherwise(pl.format("{}, row {}", file, row))
    called = pl.struct("file", "source_id", "sample")
    texts = ids.filter(pl.col("source_id").is_not_null()).filter(pl.col("rollout_id").n_unique().over(called) > 1)
    texts = texts.with_columns(group=called).with_columns(
        field=pl.lit("id"),
        reason=pl.format(
            "id '{}' also stands for another text, in {}: give answers to one prompt a `sample` number, or leave "
            "these ids out with columns: {{id: null}}",
            "source_id",
            other,
        ),
    )
    rated = ids.filter(pl.col("ratings").fill_null("").n_unique().over("rollout_id") > 1)
    rated = rated.with_columns(group=pl.struct("rollout_id")).with_columns(
        field=pl.lit("ratings"), reason=pl.format("the same prompt and answer as {}, but other ratings", other)
    )
    columns = ["part", "at", "file", "row", "field", "reason", pl.col("rollout_id").alias("raw")]
    found = pl.concat([texts.select(columns), rated.select(columns)])
    return found.unique(["part", "at"], keep="first", maintain_order=True)


def _duplicates(ids: pl.DataFrame) -> pl.DataFrame:
    """Rows that equal an earlier one."""
    import polars as pl

    twice = ids.filter(pl.col("rollout_id").is_duplicated())
    twice = twice.with_columns(
        field=pl.lit("row"),
        reason=pl.format(
            "duplicate of {}, row {}",
            pl.col("file").first().over("rollout_id"),
            pl.col("row").first().over("rollout_id"),
        ),
        raw=pl.col("rollout_id"),
    )
    return twice.filter(~pl.col("rollout_id").is_first_distinct())


def _write(rows: pl.DataFrame, path: Path, always: bool = False) -> None:
    if len(rows) or always:
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.select(QUARANTINE.names).to_arrow().cast(QUARANTINE), path, compression="zstd")
