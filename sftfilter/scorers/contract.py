"""What a scorer is: frozen settings that know their fingerprint, and an object on the worker that scores batches.

To add one: a module with a `ScorerSettings` subclass that has a `kind`, and its line in the union of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from sftfilter.config import Settings, stable_hash

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True)
class Scored:
    """Scores of one batch, a value for each row and in its order.

    Attributes:
        score: float64; null where there is none.
        error: string; why there is no score, null where there is one. None: the stage words it.
        detail: string; what a person may want to know of a score (a judge's quote). None: nothing.
    """

    score: pa.Array | pa.ChunkedArray
    error: pa.Array | pa.ChunkedArray | None = None
    detail: pa.Array | pa.ChunkedArray | None = None


class LoadedScorer(Protocol):
    """A scorer on its worker, with whatever it had to load."""

    def score(self, batch: pa.Table) -> Scored:
        """Score rows that have the columns in `needs`. A row that fails may raise: it is then tried alone."""
        ...


class ScorerSettings(Settings):
    """Base of every scorer's settings.

    Attributes:
        version: raised when the code would score the same rows differently.
        needs: columns of the rollouts table that are read; `rollout_id` always is.
        heavy: holds a model, so that one actor a GPU (or one on all cores) is the default pool.
        actors: how many at most by default, where it is not heavy; None: one a CPU. One that waits for others needs few.
        batch: rows an actor is handed at a time and keeps together; the scorer may split them, by length say.
        aside: fields that decide no score by themselves: speed, secrets, and paths whose content `inputs` hashes.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("completion",)
    heavy: ClassVar[bool] = False
    actors: ClassVar[int | None] = None
    batch: ClassVar[int] = 4096
    aside: ClassVar[frozenset[str]] = frozenset()

    def inputs(self) -> Sequence[str]:
        """Hashes of the files and weights that the settings name."""
        return ()

    def fingerprint(self) -> str:
        """Changes with anything that could change a score."""
        return stable_hash([self.model_dump(mode="json", exclude=set(self.aside)), self.version, *self.inputs()])

    def prepare(self, folder: Path, device: str) -> None:
        """Make what all actors share, once for each fingerprint: a probe's weights, a query's gradients.

        Args:
            folder: to write files into; `load` gets the same files.
            device: `cpu` or `cuda`.
        """

    def load(self, folder: Path, device: str) -> LoadedScorer:
        """The scorer, on the worker.

        Args:
            folder: what `prepare` wrote.
            device: `cpu` or `cuda`.
        """
        raise NotImplementedError

    def notes(self, scores: pl.LazyFrame) -> Sequence[str]:  # noqa: ARG002
        """What a person should know about a finished table of scores (schema SCORES)."""
        return ()
