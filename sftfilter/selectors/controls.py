"""Random controls: as many prompts or rows as another selector takes. Redrawn for each training seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sftfilter.errors import DataError
from sftfilter.selectors.contract import Given, SelectorSettings, Taken, draw_order

if TYPE_CHECKING:
    import numpy as np


class RandomControl(SelectorSettings):
    """As many prompts (with all their rows), or as many single rows, as another selector takes, from among all."""

    kind: Literal["random"]
    size_of: str
    match: Annotated[
        Literal["prompts", "rows"] | None, Field(description="default: what the intervention on it counts by")
    ] = None
    seed: int = 0

    def refers(self) -> Sequence[str]:
        return (self.size_of,)

    def take(self, given: Given) -> Taken:
        import numpy as np
        import polars as pl

        pool, seed = given.pool, given.seed
        size_of = given.others[self.size_of].rows
        drawn = np.zeros(len(pool), bool)
        if (self.match or ("rows" if given.by_row else "prompts")) == "rows":
            by_id = np.argsort(pool.column("rank").to_numpy())
            drawn[by_id[draw_order(len(pool), self.seed, seed)[: int(size_of.sum())]]] = True
        else:
            prompts = pool.prompts
            sample = random.Random(f"{self.seed}/{seed}").sample(
                range(len(prompts)), int(pool.prompts_of(size_of).sum())
            )
            inside = np.zeros(len(pool.frame.prompt_ids), bool)
            inside[prompts[sample]] = True
            drawn = inside[pool.prompt]
        return Taken(pl.Series(drawn))


class LengthMatchedRandom(SelectorSettings):
    """As many prompts (with all their rows), or as many single rows, as another selector takes, with answers of like length.

    What the intervention on it counts by is drawn: prompts of which the other selector takes no row, by the mean length of
    their answers, or rows that it does not take. Lengths are cut at their quantiles into `bins` bins; from each bin come
    exactly as many as the other selector has there.
    """

    kind: Literal["length_matched_random"]
    size_of: str
    by: Annotated[str | None, Field(description="a scorer that counts tokens; default: characters of the answer")] = (
        None
    )
    bins: Annotated[int, Field(gt=1)] = 10
    seed: int = 0

    def refers(self) -> Sequence[str]:
        return (self.size_of,)

    def scorers(self) -> Sequence[str]:
        return (self.by,) if self.by else ()

    def take(self, given: Given) -> Taken:
        import numpy as np
        import polars as pl

        pool = given.pool
        like = given.others[self.size_of].rows
        lengths = pool.score(self.by) if self.by else pool.length()
        known = lengths.is_not_null().to_numpy()
        if (like & ~known).any():
            raise DataError(f"{int((like & ~known).sum())} rows of '{self.size_of}' have no length by '{self.by}'")
        units = np.arange(len(pool)) if given.by_row else np.searchsorted(pool.prompts, pool.prompt)
        count = int(units.max(initial=-1)) + 1
        rows = np.bincount(units, known, count)
        total = np.bincount(units, lengths.cast(pl.Float64).fill_null(0.0).to_numpy() * known, count)
        value = np.divide(total, rows, out=np.zeros(count), where=rows > 0)
        wanted = np.bincount(units, like, count) > 0
        by_id = np.argsort(pool.column("rank").to_numpy())
        order = units[by_id[draw_order(len(pool), self.seed, given.seed)]]
        order = order[np.sort(np.unique(order, return_index=True)[1])]  # a prompt where the first of its rows comes
        drawn = self._drawn(value, rows > 0, wanted, order, "rows" if given.by_row else "prompts")
        return Taken(pl.Series(drawn[units]))

    def _drawn(
        self, value: np.ndarray, known: np.ndarray, like: np.ndarray, order: np.ndarray, what: str
    ) -> np.ndarray:
        """Which prompts or rows are taken; all arguments but `order`, which permutes them, have a line for each."""
        import numpy as np

        bins = np.searchsorted(self._edges(value[known]), value, side="right")
        order = order[(known & ~like)[order]]
        wanted, free = (np.bincount(bins[some], minlength=self.bins) for some in (like, order))
        if (wanted > free).any():
            raise DataError(self._too_few(wanted, free, value[known], what))
        drawn = np.zeros(len(value), bool)
        for number in np.flatnonzero(wanted):
            drawn[order[bins[order] == number][: wanted[number]]] = True
        return drawn

    def _edges(self, lengths: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.quantile(lengths, np.linspace(0, 1, self.bins + 1)[1:-1]) if len(lengths) else np.array([])

    def _too_few(self, wanted: np.ndarray, free: np.ndarray, lengths: np.ndarray, what: str) -> str:
        ends = [float(lengths.min()), *self._edges(lengths).tolist(), float(lengths.max())]
        short = [
            f"length {ends[n]:g} to {ends[n + 1]:g}: {w} wanted, {f} there"
            for n, (w, f) in enumerate(zip(wanted, free, strict=True))
            if w > f
        ]
        return (
            f"too few {what} outside '{self.size_of}' to match its lengths ({'; '.join(short)}): use fewer bins or a "
            "selector that takes less, or leave this control out and set gates.length_control: false"
        )
