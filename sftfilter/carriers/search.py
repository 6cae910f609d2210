"""Adaptive group testing: halve groups of prompts until no smaller set of them is found that carries the trait.

First plain halving, as long as one half does by itself what the whole did: a carrier that lies in one group is then found
in about log2(groups) rounds (Dorfman 1943 and what followed; Du and Hwang 2000, chapter 2). Where neither half does, the
carrier lies in both, and QuickXplain (Junker 2004) finds a minimal set in O(k log(n / k)) tests for k of n groups. Both
take for granted that more groups never do less; training is noisy, so what is found is a guess until it is confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Way = Literal["swap", "transfer"]
"""`swap`: the alternate teacher answers these prompts, the original all others. `transfer`: the other way round."""
Seek = Literal["both", "necessary", "sufficient"]

_WAYS: Mapping[Seek, tuple[Way, ...]] = {
    "both": ("swap", "transfer"),
    "necessary": ("swap",),
    "sufficient": ("transfer",),
}


@dataclass(frozen=True)
class Group:
    """Prompts that are tested together."""

    name: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """What passes, and how much may be spent.

    Attributes:
        swapped_at_most: share of the trait that is left when a set that passes is swapped.
        brought_at_least: share of it that a set that passes brings to clean students.
        runs: students that one test trains.
        budget: students that all tests may train.
    """

    seek: Seek
    swapped_at_most: float
    brought_at_least: float
    runs: int
    budget: int

    def passes(self, way: Way, share: float | None) -> bool:
        """Whether a share of the trait is what a carrier would leave, or bring. None: nothing could be measured."""
        if share is None:
            return False
        return share <= self.swapped_at_most if way == "swap" else share >= self.brought_at_least


@dataclass(frozen=True)
class Test:
    """One question that was put to training.

    Attributes:
        prompts: how many the groups hold.
        share: of the trait, left or brought; 1 is all of it.
        runs: students that were trained for it; none where an earlier test had the same rows, since the swap of a set is
            the transfer of all others.
    """

    __test__ = False  # not for pytest

    number: int
    way: Way
    groups: tuple[str, ...]
    prompts: int
    share: float | None
    passed: bool
    runs: int


@dataclass(frozen=True)
class Found:
    """What the search ended with.

    Attributes:
        groups: the smallest set that passed; all groups where no smaller one did.
        finished: whether everything was tested that the halving asks for; otherwise the budget ended it.
        runs: students that the tests trained.
    """

    groups: tuple[Group, ...]
    tests: tuple[Test, ...]
    finished: bool
    runs: int

    @property
    def prompts(self) -> list[str]:
        """Ids of the set's prompts."""
        return [one for group in self.groups for one in group.prompts]


Measure = Callable[[int, Way, Sequence[Group]], float | None]
"""Number of the test, way and groups -> share of the trait left or brought; None where nothing could be measured."""


def search_carriers(groups: Sequence[Group], measure: Measure, rules: Rules) -> Found:
    """Search for a small set of groups that passes.

    Args:
        groups: in an order in which neighbours are alike, so that a carrier of several groups lies in few halves.
    """
    hunt = _Hunt(groups, measure, rules)
    finished = True
    try:
        hunt.run()
    except _BudgetSpentError:
        finished = False
    return Found(tuple(hunt.smallest()), tuple(hunt.tests), finished, sum(test.runs for test in hunt.tests))


def share_of(original: float, alternate: float, changed: float) -> float | None:
    """Share of the gap between original and alternate that a changed arm shows; None without a gap."""
    gap = original - alternate
    return (changed - alternate) / gap if abs(gap) > 1e-9 else None


class _BudgetSpentError(Exception):
    pass


class _Hunt:
    def __init__(self, groups: Sequence[Group], measure: Measure, rules: Rules) -> None:
        self.groups, self.measure, self.rules = list(groups), measure, rules
        self.tests: list[Test] = []
        self._known: dict[tuple[Way, frozenset[str]], Test] = {}
        self._shares: dict[frozenset[str], float | None] = {}  # by the groups that the original teacher answers
        self._passed: list[list[Group]] = [list(groups)]

    def run(self) -> None:
        """Halve while a half passes by itself, then look for what of both halves is needed."""
        left = self.groups
        while len(left) > 1:
            half = next((part for part in _halves(left) if self.passes(part)), None)
            if half is None:
                break
            left = half
        if len(left) > 1:
            self.passes(self._needed([], [], left))

    def smallest(self) -> list[Group]:
        """The set with the fewest prompts that passed, in the groups' order."""
        chosen = min(self._passed, key=_size)
        names = {group.name for group in chosen}
        return [group for group in self.groups if group.name in names]

    def passes(self, groups: Sequence[Group]) -> bool:
        """Whether a set passes in every way that is sought; the second way is tested only where the first passes."""
        if len(groups) == len(self.groups):
            return True  # then nothing of the other teacher is left, or all of it
        if not all(self._ask(way, groups).passed for way in _WAYS[self.rules.seek]):
            return False
        self._passed.append(list(groups))
        return True

    def _ask(self, way: Way, groups: Sequence[Group]) -> Test:
        key = way, frozenset(group.name for group in groups)
        if key not in self._known:
            number, names = len(self.tests) + 1, tuple(group.name for group in groups)
            rows = key[1] if way == "transfer" else frozenset(group.name for group in self.groups) - key[1]
            runs = 0 if rows in self._shares else self.rules.runs
            if runs:
                if sum(test.runs for test in self.tests) + runs > self.rules.budget:
                    raise _BudgetSpentError
                self._shares[rows] = self.measure(number, way, groups)
            share = self._shares[rows]
            passed = self.rules.passes(way, share)
            self._known[key] = Test(number, way, names, _size(groups), share, passed, runs)
            self.tests.append(self._known[key])
        return self._known[key]

    def _needed(self, kept: list[Group], new: Sequence[Group], unsure: list[Group]) -> list[Group]:
        """A minimal part of `unsure` that passes together with `kept` (QuickXplain).

        Args:
            new: what `kept` was last grown by; if nothing, it need not be tested again.
        """
        if new and self.passes(kept):
            return []
        if len(unsure) == 1:
            return unsure
        first, second = _halves(unsure)
        of_second = self._needed([*kept, *first], first, second)
        of_first = self._needed([*kept, *of_second], of_second, first)
        return [*of_first, *of_second]


def _size(groups: Sequence[Group]) -> int:
    return sum(len(group.prompts) for group in groups)


def _halves(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Two parts with about as many prompts each, neither empty."""
    whole, place, before = _size(groups), 1, len(groups[0].prompts)
    for group in groups[1:-1]:
        if abs(whole / 2 - (before + len(group.prompts))) > abs(whole / 2 - before):
            break
        before += len(group.prompts)
        place += 1
    return list(groups[:place]), list(groups[place:])
