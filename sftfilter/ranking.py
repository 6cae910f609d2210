"""How well an order of rows finds the positive ones: areas and precision, for many weightings of the rows at once.

A bootstrap is a weighting: a row that is drawn twice weighs 2. So a thousand replicates are one product of matrices over
rows that were sorted once. Rows that tie are taken together, which is what a random order among them expects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """Rows by falling score, in groups of equal ones.

    Attributes:
        rows: [N] indexes, highest score first.
        first: [G] place of the first row of each group.
        truth: [N] booleans in that order.
    """

    rows: NDArray[np.intp]
    first: NDArray[np.intp]
    truth: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Floats, truth: NDArray[np.bool_]) -> Order:
        """Sort rows with scores [N] (no NaN) and truth [N]."""
        rows = np.argsort(-scores, kind="stable")
        falling = scores[rows]
        return cls(rows, np.flatnonzero(np.append(True, falling[1:] != falling[:-1])), truth[rows])

    def sums(self, weights: Floats | None = None) -> Sums:
        """Sums for each weighting.

        Args:
            weights: [B, N], in the order of the rows as given; None: one weighting, all ones.
        """
        ordered = np.ones((1, len(self.rows))) if weights is None else weights[:, self.rows]
        positives = np.add.reduceat(ordered * self.truth, self.first, axis=1)
        return Sums(positives, np.add.reduceat(ordered, self.first, axis=1) - positives)


@dataclass(frozen=True)
class Sums:
    """Weight of positives and of negatives in each group of equal scores, best first, [B, G] each."""

    positives: Floats
    negatives: Floats

    def auroc(self) -> Floats:
        """Area under the ROC curve [B]: the chance that a positive row is above a negative one, ties half."""
        above = self._positives_down - self.positives / 2
        with np.errstate(invalid="ignore"):  # NaN where a weighting leaves only one kind
            pairs = self._positives_down[:, -1] * self.negatives.sum(axis=1)
            return np.einsum("bg,bg->b", self.negatives, above) / pairs

    def average_precision(self) -> Floats:
        """Area under the precision-recall curve [B]: precision at each group, times the recall gained there."""
        down = np.maximum(self._rows_down, 1e-300)  # nothing is gained where nothing weighs
        with np.errstate(invalid="ignore"):
            return np.einsum("bg,bg->b", self.positives, self._positives_down / down) / self._positives_down[:, -1]

    def recall_at(self, times: float) -> Floats:
        """Share of the positives among the first `times` as many rows as there are positives [B].

        With `times` 1 it is the precision there as well: as many rows are taken as there are to be found.
        """
        size = self.positives + self.negatives
        wanted = times * self._positives_down[:, -1:]
        taken = np.clip((wanted - (self._rows_down - size)) / np.maximum(size, 1e-300), 0, 1)
        with np.errstate(invalid="ignore"):
            return np.einsum("bg,bg->b", self.positives, taken) / self._positives_down[:, -1]

    @cached_property
    def _positives_down(self) -> Floats:
        return np.cumsum(self.positives, axis=1)

    @cached_property
    def _rows_down(self) -> Floats:
        return self._positives_down + np.cumsum(self.negatives, axis=1)
