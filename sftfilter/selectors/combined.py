"""Selectors made from others."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Annotated, Any, Literal

from pydantic import Field

from sftfilter.selectors.contract import Given, SelectorSettings, Taken


class AllOf(SelectorSettings):
    """Rows that all of the named selectors take."""

    kind: Literal["all_of"]
    of: Annotated[list[str], Field(min_length=1)]

    def refers(self) -> Sequence[str]:
        return self.of

    def take(self, given: Given) -> Taken:
        return _joined([given.others[name] for name in self.of], operator.and_)


class AnyOf(SelectorSettings):
    """Rows that at least one of the named selectors takes."""

    kind: Literal["any_of"]
    of: Annotated[list[str], Field(min_length=1)]

    def refers(self) -> Sequence[str]:
        return self.of

    def take(self, given: Given) -> Taken:
        return _joined([given.others[name] for name in self.of], operator.or_)


class Difference(SelectorSettings):
    """Rows that one selector takes and none of the others does."""

    kind: Literal["difference"]
    of: str
    minus: Annotated[list[str], Field(min_length=1)]

    def refers(self) -> Sequence[str]:
        return (self.of, *self.minus)

    def take(self, given: Given) -> Taken:
        first = given.others[self.of]
        others = [Taken(~given.others[name].mask) for name in self.minus]
        return _joined([first, *others], operator.and_)


def _joined(parts: Sequence[Taken], join: Callable[[Any, Any], Any]) -> Taken:
    threshold = next((part.threshold for part in parts if part.threshold is not None), None)
    return Taken(reduce(join, [part.mask for part in parts]), threshold)
