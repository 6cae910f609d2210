"""A number that the rollouts brought along: somebody's rating or keep-flag, used as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sftfilter.scorers.contract import Scored, ScorerSettings

if TYPE_CHECKING:
    import pyarrow as pa


class Column(ScorerSettings):
    """The rating of that name (see `ratings` of a rollout file); costs nothing, since nothing is scored again."""

    kind: Literal["column"]
    rating: Annotated[str, Field(description="a column that the teacher's `ratings` lists")]
    negate: Annotated[
        bool, Field(description="score = -rating, where a low rating means the trait, as with a keep-flag")
    ] = False
    needs: ClassVar[tuple[str, ...]] = ("ratings",)
    batch: ClassVar[int] = 65_536

    def load(self, folder: Path, device: str) -> ColumnScorer:  # noqa: ARG002
        """The scorer, on the worker."""
        return ColumnScorer(self.rating, self.negate)


class ColumnScorer:
    """Looks a rating up."""

    def __init__(self, rating: str, negate: bool) -> None:
        self.rating = rating
        self.negate = negate

    def score(self, batch: pa.Table) -> Scored:
        """The rating; null and an error where the row has none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from sftfilter.schema import RATINGS

        ratings = batch["ratings"].cast(RATINGS)
        score = pc.map_lookup(ratings, pa.scalar(self.rating), "first")  # pyright: ignore[reportAttributeAccessIssue]
        if self.negate:
            score = pc.subtract(0.0, score)  # pyright: ignore[reportAttributeAccessIssue]
        missing = pc.if_else(pc.is_null(score), f"no rating '{self.rating}'", None)  # pyright: ignore[reportAttributeAccessIssue]
        return Scored(score, error=missing)
