"""The texts that guards look at, streamed: small tables in this process, large ones by Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from sftfilter.artifacts import Artifact

IN_PROCESS = 20_000
"""Rows up to which starting Ray Data takes longer than the work."""
BATCH = 2048

Side = Literal["prompt", "completion"]


@dataclass(frozen=True)
class Texts:
    """One side of one table.

    Attributes:
        key: of the artifact that it is in.
        path: Parquet file or folder, with `messages` (prompts) or `completion`.
        id: the column that names a row, `prompt_id` or `rollout_id`.
        split: `train`, or the name of the evaluation.
        teacher: whose completions; empty for prompts.
    """

    key: str
    path: Path
    side: Side
    id: str
    split: str
    teacher: str = ""

    @property
    def columns(self) -> list[str]:
        """What is read."""
        return [self.id, "messages" if self.side == "prompt" else "completion", "source"]

    @property
    def name(self) -> list[str]:
        """What a result on these texts depends on beside the key."""
        return [self.side, self.split, self.teacher]


def prompt_texts(prompts: Artifact, split: str) -> Texts:
    """The prompts of a `prompts` table."""
    return Texts(prompts.key, prompts.path / "prompts.parquet", "prompt", "prompt_id", split)


def answered_texts(rollouts: Mapping[str, Artifact]) -> list[Texts]:
    """The prompts that each teacher answers, where there is no table of prompts."""
    return [
        Texts(a.key, a.path / "rollouts.parquet", "prompt", "prompt_id", "train", teacher)
        for teacher, a in rollouts.items()
    ]


def completion_texts(rollouts: Mapping[str, Artifact]) -> list[Texts]:
    """Every teacher's completions."""
    return [
        Texts(a.key, a.path / "rollouts.parquet", "completion", "rollout_id", "train", teacher)
        for teacher, a in rollouts.items()
    ]


def texts_of(table: pa.Table, side: Side) -> pl.Series:
    """One text a row: the completion, or the turns of the prompt without the system's, which many rows share."""
    import polars as pl

    if side == "completion":
        return pl.Series("text", table["completion"], dtype=pl.String)
    return pl.DataFrame({"messages": table["messages"]}).select(
        pl.col("messages")
        .list.eval(pl.element().filter(pl.element().struct.field("role") != "system").struct.field("content"))
        .list.join("\n")
        .alias("text")
    )["text"]


def canonical_rows(batch: pa.Table, texts: Texts, ids: pa.Array) -> pa.Table:
    """id and canonical text of those rows of a batch that are asked for."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from sftfilter.guards.tokens import canonical

    wanted = batch.filter(pc.is_in(batch[texts.id], ids))  # pyright: ignore[reportAttributeAccessIssue]
    return pa.table({"id": wanted[texts.id], "text": canonical(texts_of(wanted, texts.side)).to_arrow()})


def count_rows(path: Path) -> int:
    """Rows of a Parquet file or folder."""
    import pyarrow.dataset as ds

    return ds.dataset(path).count_rows()


def stream(path: Path, columns: Sequence[str], work: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
    """`work` over the batches of a Parquet table, in no order that can be relied on.

    Args:
        work: must pickle; what it returns is all that comes back to this process.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    if count_rows(path) <= IN_PROCESS:
        for batch in ds.dataset(path).to_batches(columns=list(columns), batch_size=BATCH):
            if batch.num_rows:
                yield work(pa.Table.from_batches([batch]))
        return
    import ray.data

    yield from (
        ray.data.read_parquet(str(path))
        .select_columns(list(columns))
        .map_batches(work, batch_format="pyarrow", batch_size=BATCH, num_cpus=0.5)
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
