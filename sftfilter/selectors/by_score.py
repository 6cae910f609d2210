"""Selectors that cut a score: at a value, at a share, at a number of rows, at a quantile of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from sftfilter.errors import DataError
from sftfilter.selectors.contract import Given, SelectorSettings, Taken

if TYPE_CHECKING:
    import polars as pl

    from sftfilter.score_frame import Pool

_BOUNDS = ("at_least", "above", "at_most", "below")


class _Bounded(SelectorSettings):
    """One bound, on either side, with or without the bound itself."""

    scorer: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> _Bounded:
        if sum(getattr(self, name) is not None for name in _BOUNDS) != 1:
            raise ValueError(f"give exactly one of {', '.join(_BOUNDS)}; for a band, join two with all_of")
        return self

    @property
    def bound(self) -> float:
        """The one that is given."""
        return next(value for name in _BOUNDS if (value := getattr(self, name)) is not None)

    def scorers(self) -> Sequence[str]:
        return (self.scorer,)

    def holds(self, score: pl.Series, bound: pl.Series | float) -> pl.Series:
        """Whether each score lies on the selected side of a bound; null for a missing score."""
        if self.at_least is not None:
            return score >= bound
        if self.above is not None:
            return score > bound
        return score <= bound if self.at_most is not None else score < bound


class Threshold(_Bounded):
    """Rows whose score is at least, above, at most or below a value. Rows without a score are not selected."""

    kind: Literal["threshold"]

    def take(self, given: Given) -> Taken:
        return Taken(self.holds(given.pool.score(self.scorer), self.bound), self.bound)


class Quantile(_Bounded):
    """Rows whose score lies on one side of a quantile of their own group's scores, so that no group's level decides.

    The bound is the quantile, 0 to 1, interpolated linearly. Rows that tie with it stand or fall together.
    """

    kind: Literal["quantile"]
    within: Literal["source", "kind", "teacher"]

    @model_validator(mode="after")
    def _share(self) -> Quantile:
        if not 0 <= self.bound <= 1:
            raise ValueError("the bound is a quantile, from 0 to 1")
        return self

    def take(self, given: Given) -> Taken:
        import polars as pl

        score = given.pool.score(self.scorer)
        frame = pl.DataFrame({"group": given.pool.column(self.within), "score": score})
        cut = frame.select(pl.col("score").quantile(self.bound, interpolation="linear").over("group"))
        return Taken(self.holds(score, cut.to_series()))


class _Ranked(SelectorSettings):
    """The rows at one end of a score; among equal scores, those with the lower rollout id."""

    scorer: str
    order: Annotated[Literal["highest", "lowest"], Field(description="which end is taken")] = "highest"

    def scorers(self) -> Sequence[str]:
        return (self.scorer,)

    def _take(self, pool: Pool, count: int) -> Taken:
        import numpy as np
        import polars as pl

        score = pool.score(self.scorer)
        missing = score.is_null().to_numpy()
        value = score.fill_null(float("-inf")).to_numpy()
        if self.order == "lowest":
            value = -score.fill_null(float("inf")).to_numpy()
        taken = np.zeros(len(pool), bool)
        cut = None
        if count:
            cut = float(np.partition(value, len(value) - count)[len(value) - count])
            taken = value > cut
            tied = np.flatnonzero((value == cut) & ~missing)
            by_id = np.argsort(pool.column("rank").to_numpy()[tied], kind="stable")
            taken[tied[by_id[: count - int(taken.sum())]]] = True
            cut = -cut if self.order == "lowest" else cut
        return Taken(pl.Series(taken).set(pl.Series(missing), None), cut)


class TopFraction(_Ranked):
    """A share of the scored rows, those at one end of the score. Rounded to whole rows, a half upwards."""

    kind: Literal["top_fraction"]
    fraction: Annotated[float, Field(gt=0, le=1)]

    def take(self, given: Given) -> Taken:
        score = given.pool.score(self.scorer)
        return self._take(given.pool, int(self.fraction * (len(score) - score.null_count()) + 0.5))


class TopK(_Ranked):
    """So many rows, those at one end of the score."""

    kind: Literal["top_k"]
    k: Annotated[int, Field(gt=0)]

    def take(self, given: Given) -> Taken:
        score = given.pool.score(self.scorer)
        scored = len(score) - score.null_count()
        if self.k > scored:
            raise DataError(f"top_k: {self.k} rows are asked for, and {scored} have a score by '{self.scorer}'")
        return self._take(given.pool, self.k)
