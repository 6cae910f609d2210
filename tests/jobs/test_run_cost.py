"""What a run has cost is told again and again, whatever the disk says in between."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from jobs import run_cost
from sftfilter.errors import MachineError


def test_costs_are_told_again_after_a_disk_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_cost, "_LOOK_S", 0.01)
    monkeypatch.setattr(run_cost, "_TELL_S", 0.0)
    calls, twice = [], threading.Event()

    def tell(event: str, **fields: Any) -> None:
        calls.append((event, fields))
        if len(calls) == 1:
            raise MachineError("cannot write: Input/output error")
        twice.set()

    with run_cost.watch_cost(tell, price=2.0):
        assert twice.wait(10), "not told again"
    assert calls[-1] == ("cost", {"core_hours": 0.0, "worker_hours": 0.0, "cost": 0.0})
