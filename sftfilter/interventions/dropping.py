"""Interventions that take rows away, and one that fills the gap with fresh ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sftfilter.errors import DataError
from sftfilter.interventions.contract import Change, InterventionSettings
from sftfilter.selectors.contract import draw_order

if TYPE_CHECKING:
    from sftfilter.score_frame import Pool
    from sftfilter.selectors import Selection


class DropPrompt(InterventionSettings):
    """Every row of the prompts in S is dropped."""

    kind: Literal["drop_prompt"]

    def change(self, own: Pool, selection: Selection) -> Change:
        return Change("drop", selection.prompts[own.prompt])


class DropRow(InterventionSettings):
    """Only the rows in S are dropped; other rows of the same prompts stay and act as counter-examples."""

    by_row: ClassVar[bool] = True

    kind: Literal["drop_row"]

    def change(self, own: Pool, selection: Selection) -> Change:
        del own  # S was chosen from these very rows
        return Change("drop", selection.rows)


class Backfill(InterventionSettings):
    """As `drop_prompt`, and as many rows as were dropped are added, from a teacher's answers to the spec's `reserve`.

    The rows are drawn at random for each seed. A larger draw holds the smaller one, so that arms share what they can.
    """

    kind: Literal["backfill"]
    with_teacher: Annotated[str, Field(description="the teacher whose answers to the reserve prompts are added")]

    def change(self, own: Pool, selection: Selection) -> Change:
        hit = selection.prompts[own.prompt]
        wanted = int(hit.sum())
        fresh = own.frame.pool(reserve_pool(self.with_teacher))
        if wanted > len(fresh):
            raise DataError(
                f"backfill: {wanted} rows are dropped, and teacher '{self.with_teacher}' has {len(fresh)} answers to the "
                "reserve prompts: add prompts to `reserve`, or choose a smaller subset"
            )
        return Change("drop", hit, added=draw_order(len(fresh), "backfill", selection.seed)[:wanted] + fresh.start)


def reserve_pool(teacher: str) -> str:
    """The name under which a teacher's answers to the reserve prompts stand in a score frame."""
    return f"{teacher} on the reserve"
