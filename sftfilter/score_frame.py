"""The score frame: every rollout as integers and scores, so that deciding never touches a text.

A row is numbered by teacher, then prompt, then rollout id; a prompt by its id's rank. Ids come back at the very end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from sftfilter.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from sftfilter.prompt_clusters import Clusters


@dataclass(frozen=True)
class ScoreFrame:
    """All rows of all teachers.

    Attributes:
        rows: a line for each row: prompt (its number), number (which of its teacher's answers to that prompt, from 0),
            rank (of its rollout id among all), teacher, kind, source, and length (characters of the answer) if asked for.
        scores: a line for each row, a column for each scorer; null where there is no score.
        rollout_ids: by row.
        prompt_ids: by prompt number, in their own order.
        spans: teacher -> its first row and one past its last.
        source_ids: by row, what its file calls it; null where it does not say. Only if asked for.
        prompt_source_ids: by prompt number, what the file of prompts calls it. Only if asked for.
        clusters: key of a clustering -> what it found; those that selectors need.
    """

    rows: pl.DataFrame
    scores: pl.DataFrame
    rollout_ids: pl.Series
    prompt_ids: pl.Series
    spans: Mapping[str, tuple[int, int]]
    source_ids: pl.Series | None = None
    prompt_source_ids: pl.Series | None = None
    clusters: Mapping[str, Clusters] = field(default_factory=dict)

    def pool(self, teacher: str | None) -> Pool:
        """The rows of one teacher, or of all.

        Raises:
            DataError: no rows of that teacher are here.
        """
        if teacher is None:
            return Pool(self, None, 0, len(self.rows))
        if teacher not in self.spans:
            raise DataError(f"no rows of teacher '{teacher}'; there are rows of: {', '.join(self.spans)}")
        return Pool(self, teacher, *self.spans[teacher])


@dataclass(frozen=True)
class Pool:
    """Consecutive rows of a frame, those of one teacher or all, that a selector chooses from."""

    frame: ScoreFrame
    teacher: str | None
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def column(self, name: str) -> pl.Series:
        """A column of `rows`, this pool's part."""
        return self.frame.rows[name].slice(self.start, len(self))

    def score(self, scorer: str) -> pl.Series:
        """One scorer's scores.

        Raises:
            DataError: it has scored none of these rows.
        """
        whose = f"rows of teacher '{self.teacher}'" if self.teacher else "rows"
        if scorer in self.frame.scores.columns:
            found = self.frame.scores[scorer].slice(self.start, len(self))
            if found.null_count() < len(self) or not len(self):
                return found
        raise DataError(f"no scores by '{scorer}' for the {whose}: score them first")

    def length(self) -> pl.Series:
        """Characters of each answer."""
        if "length" not in self.frame.rows.columns:
            raise DataError("the score frame was built without lengths: pass lengths=True")
        return self.column("length")

    @cached_property
    def prompt(self) -> np.ndarray:
        """Prompt number of each row."""
        return self.column("prompt").to_numpy()

    @cached_property
    def prompts(self) -> np.ndarray:
        """The numbers of the prompts that these rows answer, ascending."""
        import numpy as np

        return np.flatnonzero(self.prompts_of(np.ones(len(self), bool)))

    def prompts_of(self, mask: np.ndarray) -> np.ndarray:
        """Rows -> prompts: whether each prompt of the frame has a row in `mask`."""
        import numpy as np

        inside = np.zeros(len(self.frame.prompt_ids), bool)
        inside[self.prompt[mask]] = True
        return inside


def score_frame(
    rollouts: Mapping[str, pl.LazyFrame],
    scores: Mapping[str, pl.LazyFrame],
    prompts: pl.LazyFrame | None = None,
    lengths: bool = False,
    source_ids: bool = False,
) -> ScoreFrame:
    """Build the frame, once for any number of decisions.

    Args:
        rollouts: teacher -> its rollouts table.
        scores: scorer -> its scores table; rollouts that it lacks have no score.
        prompts: the prompts table, whose kind and source then hold; without it, the rollouts' own do.
        lengths: also count the characters of every answer, the only thing that needs the texts.
        source_ids: also keep what the files themselves call rows and prompts.

    Raises:
        DataError: a rollout id is there twice, in the rollouts or in a scorer's table.
    """
    import polars as pl

    rows = _stacked(rollouts, lengths, source_ids)
    prompt_ids = rows["prompt_id"].unique()
    if prompts is not None:
        known = prompts.select("prompt_id", "kind", pl.col("source").alias("prompt_source")).collect()
        rows = rows.drop("kind")
        prompt_ids = pl.concat([prompt_ids, known["prompt_id"]]).unique()
        rows = rows.join(known, on="prompt_id", how="left", validate="m:1")
        rows = rows.with_columns(source=pl.coalesce("prompt_source", "source")).drop("prompt_source")
    rows = rows.with_columns(pl.col("kind", "source").fill_null("").cast(pl.Categorical))
    prompt_ids = prompt_ids.sort()
    called = _prompts_called(prompt_ids, prompts) if source_ids else None
    numbers = pl.DataFrame({"prompt_id": prompt_ids}).with_row_index("prompt")
    rows = rows.join(numbers, on="prompt_id", how="left").drop("prompt_id")
    rows = rows.with_columns(rank=pl.col("rollout_id").rank("ordinal")).sort("teacher", "prompt", "rank")
    rows = rows.with_columns(number=pl.int_range(pl.len(), dtype=pl.UInt32).over("teacher", "prompt"))
    ids = rows["rollout_id"]
    own = rows["source_id"] if source_ids else None
    kept = rows.drop("rollout_id", "source_id", strict=False)
    return ScoreFrame(kept, _score_columns(ids, scores), ids, prompt_ids, _spans(rows, rollouts), own, called)


def _prompts_called(prompt_ids: pl.Series, prompts: pl.LazyFrame | None) -> pl.Series:
    import polars as pl

    if prompts is None:
        return pl.Series([None], dtype=pl.String).new_from_index(0, len(prompt_ids))
    known = prompts.select("prompt_id", "source_id").collect()
    every = pl.DataFrame({"prompt_id": prompt_ids})
    return every.join(known, on="prompt_id", how="left", maintain_order="left", validate="m:1")["source_id"]


def _stacked(rollouts: Mapping[str, pl.LazyFrame], lengths: bool, source_ids: bool) -> pl.DataFrame:
    """All teachers' rows: rollout_id, prompt_id, source, kind, teacher as an Enum in the order given, and length."""
    import polars as pl

    enum = pl.Enum(list(rollouts))
    wanted = [pl.col("rollout_id"), pl.col("prompt_id"), pl.col("source"), pl.col("kind")]
    if lengths:
        wanted.append(pl.col("completion").str.len_chars().alias("length"))
    if source_ids:
        wanted.append(pl.col("source_id"))
    parts = [frame.select(*wanted, pl.lit(name, enum).alias("teacher")) for name, frame in rollouts.items()]
    rows = pl.concat(parts).collect(engine="streaming")
    doubled = rows["rollout_id"].filter(rows["rollout_id"].is_duplicated()).unique().sort()
    if len(doubled):
        raise DataError(f"{len(doubled)} rollout ids are there more than once: {', '.join(doubled[:5].to_list())}")
    return rows


def _score_columns(ids: pl.Series, scores: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
    import polars as pl

    rows = pl.DataFrame({"rollout_id": ids})
    columns = []
    for name, table in scores.items():
        column = table.select("rollout_id", pl.col("score").cast(pl.Float64)).collect(engine="streaming")
        if column["rollout_id"].is_duplicated().any():
            raise DataError(f"scorer {name}: a rollout has more than one score in its table")
        found = rows.join(column, on="rollout_id", how="left", maintain_order="left")["score"]
        columns.append(found.fill_nan(None).alias(name))
    return pl.DataFrame(columns) if columns else pl.DataFrame(height=len(ids))


def _spans(rows: pl.DataFrame, teachers: Sequence[str] | Mapping[str, object]) -> dict[str, tuple[int, int]]:
    counts = dict(rows.group_by("teacher").len().iter_rows())
    spans: dict[str, tuple[int, int]] = {}
    start = 0
    for teacher in teachers:
        spans[teacher] = (start, start + counts.get(teacher, 0))
        start = spans[teacher][1]
    return spans
