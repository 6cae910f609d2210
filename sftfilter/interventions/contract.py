"""What an intervention is: frozen settings that say what happens to the rows in S, as integers over a score frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sftfilter.config import Settings

if TYPE_CHECKING:
    import numpy as np

    from sftfilter.score_frame import Pool
    from sftfilter.selectors import Selection

ACTIONS = ("keep", "drop", "swap", "rewrite", "add")


@dataclass(frozen=True)
class Change:
    """What an intervention does to the rows of an arm's teacher.

    Attributes:
        action: to the rows that are hit; the others are kept.
        hit: whether each row is.
        partner: for a swap, the frame's row that stands in for each hit row, in their order.
        added: the frame's rows that are trained on besides.
    """

    action: str
    hit: np.ndarray
    partner: np.ndarray | None = None
    added: np.ndarray | None = None


class InterventionSettings(Settings):
    """Base of every intervention's settings.

    Attributes:
        by_row: S is chosen from the arm's own rows and only those are hit. Otherwise it is chosen from the original
            teacher's rows, and every row of the prompts in S is.
    """

    by_row: ClassVar[bool] = False

    subset: str

    def needs_scores(self) -> Sequence[tuple[str, str]]:
        """(teacher, scorer) pairs that it reads besides what the selector does."""
        return ()

    def change(self, own: Pool, selection: Selection) -> Change:
        """What happens to the rows of the arm's teacher.

        Raises:
            DataError: rows that it needs from another teacher are not there.
        """
        raise NotImplementedError
