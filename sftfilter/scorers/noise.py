"""A number that has nothing to do with the row: the control that every scorer has to beat."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from sftfilter.scorers.contract import Scored, ScorerSettings

if TYPE_CHECKING:
    import pyarrow as pa


class Noise(ScorerSettings):
    """Uniform in [0, 1), drawn from the seed and the row's id: the same for a row wherever it is scored."""

    kind: Literal["random"]
    seed: int = 0
    needs: ClassVar[tuple[str, ...]] = ()

    def load(self, folder: Path, device: str) -> NoiseScorer:  # noqa: ARG002
        """The scorer, on the worker."""
        return NoiseScorer(self.seed)


class NoiseScorer:
    """Hashes ids."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def score(self, batch: pa.Table) -> Scored:
        """One number a row."""
        import pyarrow as pa

        return Scored(pa.array([self._draw(i) for i in batch["rollout_id"].to_pylist()], pa.float64()))

    def _draw(self, identifier: str) -> float:
        digest = hashlib.sha256(f"{self.seed}/{identifier}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48
