"""The training plan: which rows make up which optimizer step, fixed before anything is split over workers.

A plan knows nothing of world sizes or micro-batches, so the same plan trains the same weights on any number of
workers. Arms that share prompts share their order: every arm orders its rows by one permutation over all prompts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sftfilter.config import stable_hash


@dataclass(frozen=True)
class TrainingPlan:
    """`steps[k]` holds the row ids of optimizer step k; None is padding with zero weight."""

    steps: tuple[tuple[str | None, ...], ...]

    @property
    def hash(self) -> str:
        """Hash over every slot."""
        return stable_hash(self.steps)


def make_plan(
    rows: Sequence[tuple[str, str]], order_over: Sequence[str], *, batch: int, epochs: float, seed: int
) -> TrainingPlan:
    """Plan `epochs` passes over `rows`.

    Args:
        rows: (order key, row id) pairs; the order key is the prompt's id.
        order_over: every prompt id of the experiment, of which `rows` may use a part.
        batch: rows in an optimizer step; the last step of the plan is padded.
        epochs: passes; a fraction stops part-way through the last pass.
        seed: of the permutations, one for each pass.
    """
    queue: list[str] = []
    wanted = round(len(rows) * epochs)
    prompts = sorted(set(order_over))
    by_prompt: dict[str, list[str]] = {}
    for prompt, row in rows:
        by_prompt.setdefault(prompt, []).append(row)
    epoch = 0
    while len(queue) < wanted:
        order = prompts.copy()
        random.Random(f"{seed}/{epoch}").shuffle(order)
        queue += [row for prompt in order for row in by_prompt.get(prompt, [])]
        epoch += 1
    queue = queue[:wanted]
    slots: list[str | None] = [*queue, *[None] * (-len(queue) % batch)]
    return TrainingPlan(tuple(tuple(slots[i : i + batch]) for i in range(0, len(slots), batch)))


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
    rounds = 1
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
