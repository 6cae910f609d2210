"""The training plan: which rows make up which optimizer step, fixed before anything is split over workers.

A plan knows nothing of world sizes or micro-batches, so the same plan trains the same weights on any number of
workers. Arms that share prompts share their order: every arm orders its rows by one permutation over all prompts.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sftfilter.config import stable_hash
from sftfilter.errors import SpecError

if TYPE_CHECKING:
    from sftfilter.training_settings import TrainingSettings

EPOCHS = 2.0
"""Passes over the rows when the settings give no budget."""


@dataclass(frozen=True)
class TrainingPlan:
    """`steps[k]` holds the row ids of optimizer step k; None is padding with zero weight."""

    steps: tuple[tuple[str | None, ...], ...]

    @property
    def hash(self) -> str:
        """Hash over every slot."""
        return stable_hash(self.steps)


def make_plan(
    rows: Sequence[tuple[str, str]],
    order_over: Sequence[str],
    settings: TrainingSettings,
    seed: int,
    supervised: Callable[[], Mapping[str, int]] | None = None,
) -> TrainingPlan:
    """Plan as many steps over `rows` as the settings' budget allows.

    Epochs stop within a pass if they are a fraction, and the last step is padded. Steps are all full. A budget of
    supervised tokens ends with the step that reaches it.

    Args:
        rows: (order key, row id) pairs; the order key is the prompt's id.
        order_over: every prompt id of the experiment, of which `rows` may use a part.
        seed: of the permutations, one for each pass.
        supervised: row id -> tokens that the loss is taken on; asked only for a budget of tokens.

    Raises:
        SpecError: there are rows, and the epochs are less than one of them.
    """
    batch = settings.batch
    endless = _passes(rows, order_over, seed)
    if settings.steps is not None:
        queue = list(itertools.islice(endless, settings.steps * batch))
    elif settings.supervised_tokens is not None:
        assert supervised is not None
        counts, queue, spent = supervised(), [], 0
        while spent < settings.supervised_tokens:
            step = list(itertools.islice(endless, batch))
            spent += sum(counts[row] for row in step)
            queue += step
    else:
        epochs = settings.epochs or EPOCHS
        queue = list(itertools.islice(endless, round(len(rows) * epochs)))
        if rows and not queue:
            raise SpecError(
                f"training.epochs is {epochs:g}, which of {len(rows)} rows is not even one: raise it to at least "
                f"{1 / len(rows):.2g}, or give training.steps"
            )
    slots: list[str | None] = [*queue, *[None] * (-len(queue) % batch)]
    return TrainingPlan(tuple(tuple(slots[i : i + batch]) for i in range(0, len(slots), batch)))


def _passes(rows: Sequence[tuple[str, str]], order_over: Sequence[str], seed: int) -> Iterator[str]:
    """Row ids, pass after pass without end."""
    prompts = sorted(set(order_over))
    by_prompt: dict[str, list[str]] = {}
    for prompt, row in rows:
        by_prompt.setdefault(prompt, []).append(row)
    for epoch in itertools.count():
        order = prompts.copy()
        random.Random(f"{seed}/{epoch}").shuffle(order)
        yield from (row for prompt in order for row in by_prompt.get(prompt, ()))


def split_step(lengths: Sequence[int], workers: int, max_tokens: int) -> list[list[list[int]]]:
    """Share one step's rows among workers, balanced by tokens.

    Args:
        lengths: tokens of each row.
        workers: world size.
        max_tokens: tokens a micro-batch may hold (a longer single row still gets one of its own).

    Returns:
        [worker][micro-batch][index into `lengths`]; every worker has the same number of micro-batches, some of which
        may be empty.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # No fewer can do, and with many rows each more costs time: a row fills one micro-batch at most.
    rounds = max(1, math.ceil(sum(min(length, max_tokens) for length in lengths) / (workers * max_tokens)))
    while True:
        bins: list[list[int]] = [[] for _ in range(workers * rounds)]
        loads = [0] * len(bins)
        for i in longest_first:
            target = min(range(len(bins)), key=lambda b: (loads[b], b))
            bins[target].append(i)
            loads[target] += lengths[i]
        if all(load <= max_tokens or len(rows) == 1 for load, rows in zip(loads, bins, strict=True)):
            return [bins[w::workers] for w in range(workers)]
        rounds += 1
