"""Limits a minute on a clock of the tests' own; pauses and what servers ask for."""

from __future__ import annotations

import email.utils
import time
from itertools import pairwise

import pytest

from sftfilter.endpoint.pacing import Turns, pause, retry_after


def test_turns_never_exceed_the_limits() -> None:
    turns = Turns(60, None)
    starts = [now + turns.take(0, now) for now in [0.0] * 90 + [500.0] * 5]
    assert all(b - a >= 1 - 1e-9 for a, b in pairwise(starts))
    assert starts[90:] == [500, 501, 502, 503, 504]
    tokens = Turns(None, 6000)
    assert [tokens.take(200, 0.0) for _ in range(3)] == [0, 2, 4]
    tokens.give_back(500)
    assert tokens.take(1, 0.0) == pytest.approx(1)


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    for attempt, longest in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30]):
        drawn = {pause(attempt) for _ in range(50)}
        assert len(drawn) > 10 and all(longest / 2 <= p <= longest for p in drawn)


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": "-3"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "inf"}) is None
    assert retry_after({}) is None
