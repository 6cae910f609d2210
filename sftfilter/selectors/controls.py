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
    """As many rows as another selector takes, of like length, drawn from the rows that it does not take.

    The lengths of all rows are cut at their quantiles into `bins` bins; from each bin come exactly as many rows as the
    other selector has there.
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
        value = lengths.cast(pl.Float64).fill_null(0.0).to_numpy()
        bins = np.searchsorted(self._edges(value[known]), value, side="right")
        by_id = np.argsort(pool.column("rank").to_numpy())
        order = by_id[draw_order(len(pool), self.seed, given.seed)]
        order = order[(known & ~like)[order]]
        drawn = np.zeros(len(pool), bool)
        wanted, free = (np.bincount(bins[rows], minlength=self.bins) for rows in (like, order))
        if (wanted > free).any():
            raise DataError(self._too_few(wanted, free, value[known]))
        for number in np.flatnonzero(wanted):
            drawn[order[bins[order] == number][: wanted[number]]] = True
        return Taken(pl.Series(drawn))

    def _edges(self, lengths: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.quantile(lengths, np.linspace(0, 1, self.bins + 1)[1:-1]) if len(lengths) else np.array([])

    def _too_few(self, wanted: np.ndarray, free: np.ndarray, lengths: np.ndarray) -> str:
        ends = [float(lengths.min()), *self._edges(lengths).tolist(), float(lengths.max())]
        short = [
            f"length {ends[n]:g} to {ends[n + 1]:g}: {w} wanted, {f} there"
            for n, (w, f) in enumerate(zip(wanted, free, strict=True))
            if w > f
        ]
        return (
            f"too few rows outside '{self.size_of}' to match its lengths ({'; '.join(short)}): use fewer bins, "
            "or a selector that takes less"
        )
