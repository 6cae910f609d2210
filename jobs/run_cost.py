"""What a run has cost so far: hours of the cluster it runs on, by its nodes, which come and go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sftfilter.errors import MachineError
from sftfilter.repeating import repeating

_LOOK_S, _TELL_S = 5.0, 30.0


@dataclass
class Hours:
    """Of all nodes together, whether they worked or idled: both are paid for.

    Attributes:
        workers: nodes with CPUs or GPUs; a head without work is not one of them.
    """

    cores: float = 0.0
    workers: float = 0.0

    def add(self, nodes: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """So many seconds more with these nodes, as `ray.nodes()` has them."""
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        self.cores += sum(found.get("CPU", 0) for found in resources) * seconds / 3600
        self.workers += sum(found.get("CPU", 0) > 0 or found.get("GPU", 0) > 0 for found in resources) * seconds / 3600

    def told(self, price: float | None) -> dict[str, float | None]:
        """For the record; `cost` in whatever the price is in."""
        cost = None if price is None else round(self.workers * price, 4)
        return {"core_hours": round(self.cores, 4), "worker_hours": round(self.workers, 4), "cost": cost}


@contextlib.contextmanager
def watch_cost(tell: Callable[..., None], price: float | None) -> Iterator[None]:
    """Write the event `cost` every half minute and at the end of the block; Ray must be connected."""
    import ray

    hours = Hours()
    last = told = time.monotonic()

    def look() -> None:
        nonlocal last
        nodes = ray.nodes()
        now = time.monotonic()
        hours.add(nodes, now - last)
        last = now

    def watch() -> None:
        nonlocal told
        with contextlib.suppress(Exception):  # a cluster that does not answer is asked again
            look()
        if time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            with contextlib.suppress(MachineError):  # a disk that takes nothing: the stages say so
                tell("cost", **hours.told(price))

    try:
        with repeating(_LOOK_S, watch):
            yield
    finally:
        with contextlib.suppress(Exception):
            look()
        tell("cost", **hours.told(price))
