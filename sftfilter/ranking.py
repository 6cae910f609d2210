"""How well an order of rows finds the positive ones: areas and precision, for many weightings of the rows at once.

A bootstrap is a weighting: a row that is drawn twice weighs 2. So a thousand replicates are one product of matrices over
rows that were sorted once. Rows that tie are taken together, which is what a random order among them expects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """Rows by falling score, in groups of equal ones.

    Attributes:
        rows: [N] indexes, highest score first.
        last: [G] place of the last row of each group.
        truth: [N] booleans in that order.
    """

    rows: NDArray[np.intp]
    last: NDArray[np.intp]
    truth: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Floats, truth: NDArray[np.bool_]) -> Order:
        """Sort rows with scores [N] (no NaN) and truth [N]."""
        rows = np.argsort(-scores, kind="stable")
        last = np.flatnonzero(np.append(np.diff(scores[rows]) != 0, True))
        return cls(rows, last, truth[rows])

    def sums(self, weights: Floats | None = None) -> Sums:
        """Sums for each weighting.

        Args:
            weights: [B, N], in the order of the rows as given; None: one weighting, all ones.
        """
        ordered = np.ones((1, len(self.rows))) if weights is None else weights[:, self.rows]
        positives = np.cumsum(ordered * self.truth, axis=1)[:, self.last]
        return Sums(positives, np.cumsum(ordered, axis=1)[:, self.last] - positives)


@dataclass(frozen=True)
class Sums:
    """Weight of positives and of negatives down to the end of each group of equal scores, [B, G] each."""

    positives: Floats
    negatives: Floats

    def auroc(self) -> Floats:
        """Area under the ROC curve [B]: the chance that a positive row is above a negative one, ties half."""
        above = self.positives - _gained(self.positives) / 2
        with np.errstate(invalid="ignore"):  # NaN where a weighting leaves only one kind
            pairs = self.positives[:, -1] * self.negatives[:, -1]
            return (_gained(self.negatives) * above).sum(axis=1) / pairs

    def average_precision(self) -> Floats:
        """Area under the precision-recall curve [B]: precision at each group, times the recall gained there."""
        total = self.positives + self.negatives
        precision = np.divide(self.positives, total, out=np.zeros_like(total), where=total > 0)
        with np.errstate(invalid="ignore"):
            return (_gained(self.positives) * precision).sum(axis=1) / self.positives[:, -1]

    def recall_at(self, times: float) -> Floats:
        """Share of the positives among the first `times` as many rows as there are positives [B].

        With `times` 1 it is the precision there as well: as many rows are taken as there are to be found.
        """
        total = self.positives + self.negatives
        size = _gained(total)
        room = np.clip(times * self.positives[:, -1:] - (total - size), 0, size)
        taken = np.divide(room, size, out=np.zeros_like(size), where=size > 0)
        with np.errstate(invalid="ignore"):
            return (_gained(self.positives) * taken).sum(axis=1) / self.positives[:, -1]


def _gained(sums: Floats) -> Floats:
    return np.diff(sums, axis=1, prepend=0)
