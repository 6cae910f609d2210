"""Selectors: from scored rows of the original teacher to a subset S. Expressions over stored scores, never a rescore."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sftfilter.config import Settings, did_you_mean
from sftfilter.errors import DataError, SpecError

if TYPE_CHECKING:
    import polars as pl


class Threshold(Settings):
    """Rows whose score is at least `at_least`. Rows without a score are not selected, and are counted."""

    kind: Literal["threshold"]
    scorer: str
    at_least: float


class ByField(Settings):
    """Rows whose prompt has a field of a given value, such as its kind."""

    kind: Literal["field"]
    field: Literal["kind", "source"] = "kind"
    equals: str


class RandomPrompts(Settings):
    """As many prompts as another selector takes, drawn at random from all: the control. Redrawn for each seed."""

    kind: Literal["random"]
    size_of: str
    seed: int = 0


class AllOf(Settings):
    """Rows that all of the named selectors take."""

    kind: Literal["all_of"]
    of: Annotated[list[str], Field(min_length=1)]


Selector = Annotated[Threshold | ByField | RandomPrompts | AllOf, Field(discriminator="kind")]


@dataclass(frozen=True)
class Subset:
    """S: the selected rows, and the prompts they answer."""

    name: str
    prompt_ids: frozenset[str]
    rollout_ids: frozenset[str]
    threshold: float | None = None


def check_references(selectors: Mapping[str, Selector], scorers: Mapping[str, object]) -> None:
    """Raise ValueError when a selector names a scorer or a selector that is not there, or itself."""
    for name, selector in selectors.items():
        if isinstance(selector, Threshold) and selector.scorer not in scorers:
            raise ValueError(
                f"selectors.{name}.scorer: no scorer '{selector.scorer}'" + _hint(selector.scorer, scorers)
            )
        for other in _named(selector):
            if other not in selectors:
                raise ValueError(f"selectors.{name}: no selector '{other}'" + _hint(other, selectors))
            if name in _reachable(other, selectors):
                raise ValueError(f"selectors.{name} refers to itself")


def _hint(word: str, known: Mapping[str, object]) -> str:
    return did_you_mean(word, known) or f"; there are: {', '.join(known) or 'none'}"


def _named(selector: Selector) -> list[str]:
    match selector:
        case RandomPrompts():
            return [selector.size_of]
        case AllOf():
            return list(selector.of)
        case _:
            return []


def _reachable(name: str, selectors: Mapping[str, Selector], seen: frozenset[str] = frozenset()) -> frozenset[str]:
    if name in seen or name not in selectors:
        return seen
    return reduce(lambda s, other: _reachable(other, selectors, s), _named(selectors[name]), seen | {name})


def select(name: str, selectors: Mapping[str, Selector], rows: pl.DataFrame, seed: int) -> Subset:
    """The subset that selector `name` takes.

    Args:
        rows: columns rollout_id, prompt_id, kind, source, and one score column for each scorer.
        seed: of the training run, so that random controls are redrawn with it.
    """
    import polars as pl

    selector = selectors.get(name)
    if selector is None:
        raise SpecError(f"no selector '{name}'" + _hint(name, selectors))
    threshold = None
    match selector:
        case Threshold():
            if selector.scorer not in rows.columns:
                raise DataError(f"selector {name}: no scores of '{selector.scorer}'")
            taken = rows.filter(pl.col(selector.scorer) >= selector.at_least)
            threshold = selector.at_least
        case ByField():
            taken = rows.filter(pl.col(selector.field) == selector.equals)
            if taken.is_empty():
                known = ", ".join(sorted(set(rows[selector.field])))
                raise DataError(
                    f"selector {name}: no prompt has {selector.field} '{selector.equals}'; there are: {known}"
                )
        case RandomPrompts():
            size = len(select(selector.size_of, selectors, rows, seed).prompt_ids)
            prompts = sorted(set(rows["prompt_id"]))
            drawn = random.Random(f"{selector.seed}/{seed}").sample(prompts, size)
            taken = rows.filter(pl.col("prompt_id").is_in(drawn))
        case AllOf():
            parts = [select(other, selectors, rows, seed) for other in selector.of]
            both = frozenset.intersection(*(p.rollout_ids for p in parts))
            taken = rows.filter(pl.col("rollout_id").is_in(list(both)))
            threshold = next((p.threshold for p in parts if p.threshold is not None), None)
    return Subset(name, frozenset(taken["prompt_id"]), frozenset(taken["rollout_id"]), threshold)
