"""Training plans: every row as often as asked, arms paired, and a split that neither loses nor repeats a row."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from sftfilter.errors import SpecError
from sftfilter.training_plan import make_plan, split_step
from sftfilter.training_settings import TrainingSettings

PROMPTS = [f"p{i}" for i in range(20)]


def _rows(prompts: list[str]) -> list[tuple[str, str]]:
    return [(p, f"row-{p}") for p in prompts]


def settings(batch: int, **budget: Any) -> TrainingSettings:
    return TrainingSettings(batch=batch, **budget)


def test_every_row_once_an_epoch_and_padding_fills_the_last_step() -> None:
    plan = make_plan(_rows(PROMPTS), PROMPTS, settings(8, epochs=2), 0)
    slots = [slot for step in plan.steps for slot in step]
    assert Counter(slots) == {f"row-{p}": 2 for p in PROMPTS} | {}
    assert {len(step) for step in plan.steps} == {8}
    odd = make_plan(_rows(PROMPTS[:5]), PROMPTS, settings(8, epochs=1), 0)
    assert [slot is None for slot in odd.steps[0]].count(True) == 3


def test_fraction_of_an_epoch() -> None:
    plan = make_plan(_rows(PROMPTS), PROMPTS, settings(5, epochs=1.5), 0)
    assert len(plan.steps) == 6
    assert max(Counter(slot for step in plan.steps for slot in step).values()) == 2


def test_budgets_of_steps_and_of_supervised_tokens() -> None:
    by_steps = make_plan(_rows(PROMPTS), PROMPTS, settings(8, steps=7), 0)
    assert len(by_steps.steps) == 7
    assert None not in {slot for step in by_steps.steps for slot in step}, "steps are full"
    default = make_plan(_rows(PROMPTS), PROMPTS, settings(8), 0)
    assert default.steps == by_steps.steps[:5], "the same order; two epochs by default"

    counts = {f"row-{p}": 10 + i for i, p in enumerate(PROMPTS)}
    by_tokens = make_plan(_rows(PROMPTS), PROMPTS, settings(4, supervised_tokens=500), 0, lambda: counts)
    spent = [sum(counts[row] for row in step if row) for step in by_tokens.steps]
    assert sum(spent) >= 500 > sum(spent[:-1])
    with pytest.raises(ValidationError, match="give one of epochs, steps, supervised_tokens"):
        settings(4, steps=1, epochs=1)


def test_arms_share_their_order() -> None:
    whole = make_plan(_rows(PROMPTS), PROMPTS, settings(4, epochs=1), 3)
    part = make_plan(_rows(PROMPTS[:11]), PROMPTS, settings(4, epochs=1), 3)
    kept = [s for step in whole.steps for s in step if s in {f"row-{p}" for p in PROMPTS[:11]}]
    assert [s for step in part.steps for s in step if s] == kept


def test_epochs_of_less_than_a_row_are_refused() -> None:
    with pytest.raises(
        SpecError, match=r"training\.epochs is 0\.01, which of \d+ rows is not even one: raise it to at"
    ):
        make_plan(_rows(PROMPTS), PROMPTS, settings(4, epochs=0.01), 0)
    assert make_plan([], PROMPTS, settings(4, epochs=0.01), 0).steps == ()


def test_seed_and_rows_change_the_hash() -> None:
    plans = [
        make_plan(_rows(PROMPTS), PROMPTS, settings(4, epochs=1), 0),
        make_plan(_rows(PROMPTS), PROMPTS, settings(4, epochs=1), 1),
        make_plan(_rows(PROMPTS[:-1]), PROMPTS, settings(4, epochs=1), 0),
    ]
    assert len({plan.hash for plan in plans}) == 3
    assert make_plan(_rows(PROMPTS), list(reversed(PROMPTS)), settings(4, epochs=1), 0).hash == plans[0].hash


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("limit", [1, 60, 100, 10_000])
def test_split_covers_each_row_once_with_equal_rounds(workers: int, limit: int) -> None:
    lengths = [50, 20, 31, 44, 12, 60, 7, 33]
    split = split_step(lengths, workers, limit)
    assert len(split) == workers
    assert len({len(micro) for micro in split}) == 1
    assert sorted(i for micro in split for rows in micro for i in rows) == list(range(8))
    for rows in (rows for micro in split for rows in micro):
        assert len(rows) <= 1 or sum(lengths[i] for i in rows) <= limit


def test_many_rows_are_split_at_once_and_as_before() -> None:
    generator = random.Random(0)
    lengths = [generator.randint(20, 4000) for _ in range(2048)]
    began = time.process_time()
    split = split_step(lengths, 2, 4096)
    assert time.process_time() - began < 20
    fewest = sum(lengths) / (2 * 4096)
    assert fewest <= len(split[0]) < 1.2 * fewest


def test_split_balances_tokens() -> None:
    split = split_step([50, 50, 10, 10, 40, 40], 2, 1000)
    loads = [sum([50, 50, 10, 10, 40, 40][i] for rows in micro for i in rows) for micro in split]
    assert loads == [100, 100]
