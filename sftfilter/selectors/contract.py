"""What a selector is: frozen settings that mark rows of a pool, from stored scores alone.

A mark is true, false or null: null is a row whose membership cannot be known, since a score is missing. Marks combine
by Kleene's logic, so a missing score neither selects a row nor, through a difference, lets it in. To add a selector: a
module with a `SelectorSettings` subclass that has a `kind`, and its line in the union of this package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sftfilter.config import Settings

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from sftfilter.score_frame import Pool


@dataclass(frozen=True)
class Taken:
    """What a selector marks.

    Attributes:
        mask: true, false or null for each row of the pool.
        threshold: the score at the cut, where there is one.
    """

    mask: pl.Series
    threshold: float | None = None

    @property
    def rows(self) -> np.ndarray:
        """Whether each row is selected; null is not."""
        return self.mask.fill_null(False).to_numpy()


@dataclass(frozen=True)
class Given:
    """What a selector chooses from.

    Attributes:
        seed: of the training run, so that random controls are redrawn with it.
        by_row: whether the intervention hits the selected rows only, not every row of their prompts.
        others: what the selectors that it refers to take from the same pool.
    """

    pool: Pool
    seed: int
    by_row: bool
    others: Mapping[str, Taken]


class SelectorSettings(Settings):
    """Base of every selector's settings."""

    def scorers(self) -> Sequence[str]:
        """Scorers whose scores it reads."""
        return ()

    def refers(self) -> Sequence[str]:
        """Other selectors that it is made from."""
        return ()

    def take(self, given: Given) -> Taken:
        """Mark the rows of the pool."""
        raise NotImplementedError


def draw_order(count: int, *words: object) -> np.ndarray:
    """A permutation of `count` that depends on the words only (NumPy freezes RandomState's streams for ever)."""
    import numpy as np

    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return np.random.RandomState(int.from_bytes(digest[:4], "big")).permutation(count)
