"""Interventions on a subset S, decided for every row over a score frame and written down with their reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sftfilter.interventions.contract import ACTIONS
from sftfilter.interventions.dropping import Backfill, DropPrompt, DropRow, reserve_pool
from sftfilter.interventions.rewriting import Inoculate, Neutralise, Paraphrase
from sftfilter.interventions.swapping import Swap
from sftfilter.selectors import Selection, Selector, select

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from sftfilter.interventions.contract import Change
    from sftfilter.score_frame import Pool, ScoreFrame

__all__ = ["Backfill", "Decided", "DropPrompt", "DropRow", "Inoculate", "Intervention", "Neutralise", "Paraphrase",
           "Swap", "counts_of", "decide", "reserve_pool"]  # fmt: skip

Intervention = Annotated[
    DropPrompt | DropRow | Swap | Neutralise | Paraphrase | Inoculate | Backfill, Field(discriminator="kind")
]


@dataclass(frozen=True)
class Decided:
    """A decision for every row of an arm's teacher, and for the rows added to them.

    Attributes:
        rows: row (of the frame), action, partner (the frame's row that stands in, for a swap).
        selection: S; None without an intervention.
        whole_prompts: whether S counts by prompts rather than by rows.
    """

    frame: ScoreFrame
    rows: pl.DataFrame
    selection: Selection | None
    whole_prompts: bool = True

    @property
    def counts(self) -> dict[str, int]:
        """Rows kept, dropped, swapped, rewritten, added, and what is trained on in the end."""
        return counts_of(self.rows["action"])

    @property
    def to_rewrite(self) -> pl.Series:
        """Rollout ids of the rows that are rewritten, in the frame's order."""
        return self._ids(self._rewritten)

    @property
    def answer_numbers(self) -> pl.Series:
        """Which of its teacher's answers to the prompt each of `to_rewrite` is, from 0."""
        return self.frame.rows["number"].gather(self._rewritten)

    @property
    def _rewritten(self) -> pl.Series:
        return self.rows.filter(self.rows["action"] == "rewrite")["row"]

    @property
    def digest(self) -> str:
        """Hash of the decisions, for the same frame."""
        digest = hashlib.sha256()
        for column in (self.rows["row"], self.rows["action"].to_physical(), self.rows["partner"].fill_null(0)):
            digest.update(column.to_numpy().tobytes())
        return digest.hexdigest()[:16]

    def decisions(self, derived: pl.DataFrame | None = None) -> pl.DataFrame:
        """The table `decisions`, by ids.

        Args:
            derived: columns derived_from and rollout_id, of the rows rewritten by now. A row that should be among them
                and is not was not rewritten: it is dropped, and its reason says so.
        """
        import polars as pl

        rows, frame, chosen = self.rows, self.frame, self.selection
        table = rows.select(
            frame.prompt_ids.gather(frame.rows["prompt"].gather(rows["row"])).alias("prompt_id"),
            pl.col("action").cast(pl.String),
            self._reasons(),
            self._ids(rows["row"]).alias("rollout_id"),
            self._ids(rows["partner"]).alias("replaced_by"),
            pl.lit(chosen.name if chosen else None, pl.String).alias("selector"),
            pl.lit(chosen.threshold if chosen else None, pl.Float64).alias("threshold"),
        )
        return table if derived is None else _with_rewrites(table, derived)

    def _ids(self, rows: pl.Series) -> pl.Series:
        return self.frame.rollout_ids.gather(rows)

    def _reasons(self) -> pl.Expr:
        import polars as pl

        if self.selection is None:
            return pl.lit("no intervention").alias("reason")
        what, name = "prompt" if self.whole_prompts else "row", self.selection.name
        inside, outside = f"{what} in subset '{name}'", f"{what} not in subset '{name}'"
        action = pl.col("action")
        return (
            pl.when(action == "keep")
            .then(pl.lit(outside))
            .when(action == "add")
            .then(pl.lit(f"stands in for rows dropped in subset '{name}'"))
            .otherwise(pl.lit(inside))
            .alias("reason")
        )


def decide(
    frame: ScoreFrame,
    selectors: Mapping[str, Selector],
    intervention: Intervention | None,
    *,
    teacher: str | None,
    original: str | None = None,
    seed: int = 0,
) -> Decided:
    """A decision for every row of the arm's teacher.

    Args:
        teacher: whose rows the arm starts from; None for the rows of all teachers (not for swaps).
        original: the teacher whose rows S is chosen from; default: `teacher`.
        seed: of the training run; random controls and what is added are redrawn with it.

    Raises:
        DataError: the selector cannot be applied, or rows that the intervention needs are not there.
    """
    import numpy as np

    own = frame.pool(teacher)
    if intervention is None:
        return Decided(frame, _table(own, None), None)
    chooses = own if intervention.by_row or original is None else frame.pool(original)
    selection = select(intervention.subset, selectors, chooses, seed, by_row=intervention.by_row)
    change = intervention.change(own, selection)
    assert change.partner is None or len(change.partner) == np.count_nonzero(change.hit)
    return Decided(frame, _table(own, change), selection, not intervention.by_row)


def counts_of(actions: pl.Series) -> dict[str, int]:
    """Rows by what became of them. Kept, dropped, swapped and rewritten add up to the teacher's rows."""
    found = {str(action): number for action, number in actions.value_counts().iter_rows()}
    keep, drop, swap, rewrite, add = (found.get(action, 0) for action in ACTIONS)
    counts = {"kept": keep, "dropped": drop, "swapped": swap, "rewritten": rewrite, "added": add}
    return counts | {"trained": keep + swap + rewrite + add}


def _table(own: Pool, change: Change | None) -> pl.DataFrame:
    import numpy as np
    import polars as pl

    rows, action = np.arange(own.start, own.stop, dtype=np.uint32), np.zeros(len(own), np.uint8)
    partner = pl.Series([None], dtype=pl.UInt32).new_from_index(0, len(own))
    if change is not None:
        action[change.hit] = ACTIONS.index(change.action)
        if change.partner is not None:
            partner = partner.scatter(np.flatnonzero(change.hit), change.partner.astype(np.uint32))
        if change.added is not None:
            rows = np.concatenate([rows, change.added.astype(np.uint32)])
            action = np.concatenate([action, np.full(len(change.added), ACTIONS.index("add"), np.uint8)])
            partner = partner.extend_constant(None, len(change.added))
    return pl.DataFrame({"row": rows, "action": _enum(action), "partner": partner})


def _enum(codes: np.ndarray) -> pl.Series:
    import polars as pl

    return pl.Series(ACTIONS, dtype=pl.Enum(ACTIONS)).gather(codes)


def _with_rewrites(table: pl.DataFrame, derived: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    made = derived.select(pl.col("derived_from").alias("rollout_id"), pl.col("rollout_id").alias("rewrite"))
    table = table.join(made, on="rollout_id", how="left", maintain_order="left", validate="m:1")
    rewritten = pl.col("action") == "rewrite"
    failed = rewritten & pl.col("rewrite").is_null()
    return table.with_columns(
        pl.when(failed).then(pl.lit("drop")).otherwise("action").alias("action"),
        pl.when(failed).then(pl.col("reason") + ", but no rewrite was made").otherwise("reason").alias("reason"),
        pl.when(rewritten).then("rewrite").otherwise("replaced_by").alias("replaced_by"),
    ).drop("rewrite")
