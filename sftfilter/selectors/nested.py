"""A share of what another selector takes: larger shares contain the smaller ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sftfilter.selectors.contract import Given, SelectorSettings, Taken

if TYPE_CHECKING:
    import numpy as np
    import polars as pl


class ShareOf(SelectorSettings):
    """A random share of the prompts (or single rows) that another selector takes.

    Prompts are put in order by a hash of their id and the seeds, and the first ones are taken: a larger share contains
    every smaller one, and prompts that come or go leave the order of the others as it was. Drawn anew for each training
    seed. Rounded to whole prompts, a half upwards.
    """

    kind: Literal["share_of"]
    of: Annotated[str, Field(description="the selector whose prompts or rows are shared out")]
    share: Annotated[float, Field(ge=0, le=1)]
    match: Annotated[
        Literal["prompts", "rows"] | None, Field(description="default: what the intervention on it counts by")
    ] = None
    seed: int = 0

    def refers(self) -> Sequence[str]:
        return (self.of,)

    def take(self, given: Given) -> Taken:
        import numpy as np
        import polars as pl

        pool, whole = given.pool, given.others[self.of]
        if (self.match or ("rows" if given.by_row else "prompts")) == "rows":
            ids = pool.frame.rollout_ids.slice(pool.start, len(pool))
            taken = self._first(np.flatnonzero(whole.rows), ids, given.seed, len(pool))
        else:
            ids = pool.frame.prompt_ids
            inside = self._first(np.flatnonzero(pool.prompts_of(whole.rows)), ids, given.seed, len(ids))
            taken = whole.rows & inside[pool.prompt]
        return Taken(pl.Series(taken).set(whole.mask.is_null(), None), whole.threshold)

    def _first(self, places: np.ndarray, ids: pl.Series, seed: int, count: int) -> np.ndarray:
        """Whether each of `count` places is among the first of these by the hash of its id."""
        import numpy as np

        words = [f"{self.seed}/{seed}/{name}" for name in ids.gather(places)]
        order = np.argsort([hashlib.sha256(word.encode()).hexdigest() for word in words], kind="stable")
        marked = np.zeros(count, bool)
        marked[places[order[: int(self.share * len(places) + 0.5)]]] = True
        return marked
