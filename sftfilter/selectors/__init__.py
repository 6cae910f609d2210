"""Selectors: from scored rows to a subset S. Expressions over stored scores, never a rescore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sftfilter.config import did_you_mean
from sftfilter.errors import DataError, SpecError
from sftfilter.selectors.by_cluster import Cluster
from sftfilter.selectors.by_name import ByField, Ids
from sftfilter.selectors.by_score import Quantile, Threshold, TopFraction, TopK
from sftfilter.selectors.combined import AllOf, AnyOf, Difference
from sftfilter.selectors.contract import Given, Taken
from sftfilter.selectors.controls import LengthMatchedRandom, RandomControl
from sftfilter.selectors.nested import ShareOf

if TYPE_CHECKING:
    import numpy as np

    from sftfilter.score_frame import Pool

Selector = Annotated[
    Threshold
    | TopFraction
    | TopK
    | Quantile
    | ByField
    | Ids
    | Cluster
    | RandomControl
    | LengthMatchedRandom
    | ShareOf
    | AllOf
    | AnyOf
    | Difference,
    Field(discriminator="kind"),
]


@dataclass(frozen=True)
class Selection:
    """S: the selected rows of a pool, and the prompts they answer.

    Attributes:
        seed: of the training run that it was drawn for.
        rows: whether each row of the pool is selected.
        unscored: rows that are not selected because a score that would decide it is missing.
        threshold: the score at the cut, where there is one.
    """

    name: str
    pool: Pool
    seed: int
    rows: np.ndarray
    unscored: int
    threshold: float | None = None

    @cached_property
    def prompts(self) -> np.ndarray:
        """Whether each prompt of the frame has a selected row."""
        return self.pool.prompts_of(self.rows)

    def summary(self) -> dict[str, int | float | str | None]:
        """For results.json."""
        return {
            "selector": self.name,
            "prompts": int(self.prompts.sum()),
            "rows": int(self.rows.sum()),
            "unscored": self.unscored,
            "threshold": self.threshold,
        }


def select(name: str, selectors: Mapping[str, Selector], pool: Pool, seed: int, *, by_row: bool = False) -> Selection:
    """The subset that selector `name` takes from a pool's rows.

    Args:
        seed: of the training run, so that random controls are redrawn with it.
        by_row: whether single rows are chosen, rather than prompts with all their rows.

    Raises:
        SpecError: there is no such selector.
        DataError: it cannot be applied to these rows; the message begins with its name.
    """
    taken = _take(name, selectors, pool, seed, by_row)
    return Selection(name, pool, seed, taken.rows, taken.mask.null_count(), taken.threshold)


def _take(name: str, selectors: Mapping[str, Selector], pool: Pool, seed: int, by_row: bool) -> Taken:
    selector = selectors.get(name)
    if selector is None:
        raise SpecError(f"no selector '{name}'" + _hint(name, selectors))
    others = {other: _take(other, selectors, pool, seed, by_row) for other in selector.refers()}
    try:
        return selector.take(Given(pool, seed, by_row, others))
    except DataError as error:
        raise DataError(f"selector {name}: {error}") from error


def check_references(selectors: Mapping[str, Selector], scorers: Mapping[str, object]) -> None:
    """Raise ValueError when a selector names a scorer or a selector that is not there, or itself."""
    for name, selector in selectors.items():
        for scorer in selector.scorers():
            if scorer not in scorers:
                raise ValueError(f"selectors.{name}: no scorer '{scorer}'" + _hint(scorer, scorers))
        for other in selector.refers():
            if other not in selectors:
                raise ValueError(f"selectors.{name}: no selector '{other}'" + _hint(other, selectors))
            if name in _reachable(other, selectors):
                raise ValueError(f"selectors.{name} refers to itself")


def scorers_of(name: str, selectors: Mapping[str, Selector]) -> list[str]:
    """Scorers whose scores selector `name` needs, itself or through others."""
    needed = [scorer for other in _reachable(name, selectors) for scorer in selectors[other].scorers()]
    return sorted(set(needed))


def reaches(name: str, other: str, selectors: Mapping[str, Selector]) -> bool:
    """Whether selector `name` is `other`, or is made from it."""
    return other in _reachable(name, selectors)


def needs_lengths(selectors: Mapping[str, Selector]) -> bool:
    """Whether a score frame for these selectors must count the characters of every answer."""
    return any(isinstance(selector, LengthMatchedRandom) and selector.by is None for selector in selectors.values())


def lists_ids(selectors: Mapping[str, Selector]) -> bool:
    """Whether a score frame for these selectors must keep what the files themselves call their rows."""
    return any(isinstance(selector, Ids) for selector in selectors.values())


def _hint(word: str, known: Mapping[str, object]) -> str:
    return did_you_mean(word, known) or f"; there are: {', '.join(known) or 'none'}"


def _reachable(name: str, selectors: Mapping[str, Selector], seen: frozenset[str] = frozenset()) -> frozenset[str]:
    if name in seen or name not in selectors:
        return seen
    return reduce(lambda s, other: _reachable(other, selectors, s), selectors[name].refers(), seen | {name})
