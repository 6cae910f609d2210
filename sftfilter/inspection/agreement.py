"""How far scorers agree: rank correlation, shared top decile, and Cohen's kappa of selectors.

Everything is computed within a teacher. Pooled teachers agree for a reason that says nothing of a scorer: whatever
tells one teacher from the other correlates with everything else that does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

Matrix = list[list[float | None]]


def agreement(rows: pl.DataFrame, columns: Sequence[str]) -> dict[str, Any]:
    """Every pair of columns over the rows that have both.

    Returns:
        columns; rank_correlation: Spearman's rho, top_decile: the share of the first's highest tenth that lies in the
        second's too (chance is 0.1, also where scores tie); both are None where a column is constant;
        rows: how many have both.
    """
    rho: Matrix = [[None] * len(columns) for _ in columns]
    top: Matrix = [[None] * len(columns) for _ in columns]
    both: list[list[int]] = [[0] * len(columns) for _ in columns]
    for i, first in enumerate(columns):
        for j, second in enumerate(columns[: i + 1]):
            count, correlation, overlap = _pair(rows, first, second)
            rho[i][j] = rho[j][i] = correlation
            top[i][j] = top[j][i] = overlap
            both[i][j] = both[j][i] = count
    return {"columns": list(columns), "rank_correlation": rho, "top_decile": top, "rows": both}


def _pair(rows: pl.DataFrame, first: str, second: str) -> tuple[int, float | None, float | None]:
    import polars as pl

    pair = rows.select(pl.col(first).alias("a"), pl.col(second).alias("b")).drop_nulls()
    if pair.height < 2:
        return pair.height, None, None
    if min(pair["a"].n_unique(), pair["b"].n_unique()) < 2:
        return pair.height, None, None
    rho = pair.select(pl.corr("a", "b", method="spearman")).item()
    inside = [_top_tenth(pair[column].to_numpy()) for column in ("a", "b")]
    shared = float((inside[0] * inside[1]).sum() / inside[0].sum())
    return pair.height, rho if rho is not None and math.isfinite(rho) else None, shared


def _top_tenth(scores: np.ndarray) -> np.ndarray:
    """How much of each row is in the highest tenth: rows that tie at the cut share the places that are left there."""
    import numpy as np

    places = max(1, len(scores) // 10)
    cut = np.partition(scores, len(scores) - places)[len(scores) - places]
    above, tied = scores > cut, scores == cut
    return above + tied * ((places - above.sum()) / tied.sum())


def kappas(masks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Cohen's kappa of every pair of selections over the same rows; None where chance alone would agree fully."""
    return {
        "selectors": list(masks),
        "rows": {name: int(mask.sum()) for name, mask in masks.items()},
        "kappa": [[_kappa(a, b) for b in masks.values()] for a in masks.values()],
    }


def _kappa(a: np.ndarray, b: np.ndarray) -> float | None:
    if not len(a):
        return None
    observed = float((a == b).mean())
    yes = float(a.mean()) * float(b.mean())
    no = (1 - float(a.mean())) * (1 - float(b.mean()))
    return None if yes + no >= 1 else (observed - yes - no) / (1 - yes - no)
