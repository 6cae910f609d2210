"""Workers that a cluster can never have, by the kinds of its nodes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sftfilter.errors import MachineError
from sftfilter.train_cluster import _workers_in, starts_tried
from sftfilter.train_failures import readable
from sftfilter.training_settings import Execution


def test_no_worker_is_spread_over_two_nodes() -> None:
    eights, sixteens = ({"CPU": 8, "GPU": 1}, 100), ({"CPU": 16.0}, 2)
    assert _workers_in([eights], {"CPU": 16}) == 0
    assert _workers_in([eights, sixteens], {"CPU": 16}) == 2
    assert _workers_in([eights], {"CPU": 1, "GPU": 1}) == 100
    assert _workers_in([({"CPU": 8}, math.inf)], {"CPU": 16}) == 0
    assert _workers_in([({"CPU": 8}, math.inf)], {"CPU": 8}) > 10**6
    assert _workers_in([({"CPU": math.inf}, 1)], {"CPU": 8}) > 10**6


def test_waiting_for_workers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    monkeypatch.delenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", raising=False)
    assert starts_tried(Execution(start_timeout_s=90)) == 2
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    assert starts_tried(Execution(start_timeout_s=90)) == 9
    told = readable(ControllerError(WorkerGroupStartupTimeoutError(2)), 2, {}, "", None, Path())
    assert isinstance(told, MachineError) and "no workers within execution.start_timeout_s" in str(told)
