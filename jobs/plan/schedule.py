"""How long stages take on so many workers, by list scheduling; a planner's estimate, which places nothing.

Stages follow each other, as they do in a run. The pieces of a stage are done one after another, each on as many workers
as it can be shared out to, or side by side: then the longest go first, each to the workers that are free first (Graham
1969), every piece on as many workers as gives the earliest end. What happens once however many workers there are is the
serial part, beyond which no number of them helps (Amdahl 1967).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

_SAME = 1e-6
"""Share by which two times may differ and be called the same."""

Part = tuple[float, str]
"""Seconds, and what they go to."""


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes:
        seconds: on one worker.
        most: workers that it can be shared out to.
        keeps: share of a worker's speed that is left each time their number doubles, one half at least.
    """

    name: str
    seconds: float
    most: int = 1
    keeps: float = 1.0

    def on(self, workers: int) -> float:
        """Seconds on so many workers."""
        used = max(1, min(workers, self.most))
        return self.seconds / (used * self.keeps ** math.log2(used))


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
        serial: seconds that no worker takes part in, or that each of them needs at the same time.
        at_once: whether pieces are done side by side.
        floors: what else bounds the stage, such as shared storage -> seconds below which the pieces cannot get.
    """

    name: str
    pieces: Sequence[Piece] = ()
    serial: float = 0.0
    at_once: bool = False
    floors: Mapping[str, float] = field(default_factory=dict)

    def parts(self, workers: int | None) -> list[Part]:
        """Seconds on so many workers (None: on as many as one likes), and what holds the stage up."""
        if not self.pieces:
            return [(self.serial, self.name)]
        limit = self._spread(None)
        spread = limit if workers is None else self._spread(workers)
        floor, why = max(((seconds, what) for what, seconds in self.floors.items()), default=(0.0, ""))
        if floor > spread:
            return [(self.serial, f"{self.name}: setup"), (floor, f"{self.name}: {why}")]
        held = workers != 1 and spread <= limit * (1 + _SAME)
        ends = "longest one" if self.at_once else "one by one"
        return [(self.serial, f"{self.name}: setup"), (spread, f"{self.name}: {ends if held else 'work'}")]

    def _spread(self, workers: int | None) -> float:
        if workers is None:
            shortest = [piece.on(piece.most) for piece in self.pieces]
            return max(shortest) if self.at_once else sum(shortest)
        if not self.at_once:
            return sum(piece.on(workers) for piece in self.pieces)
        return min(_side_by_side(self.pieces, workers, each) for each in _powers_of_two(workers))


@dataclass(frozen=True)
class Estimate:
    """A run on so many workers; None stands for as many as one likes.

    Attributes:
        used: of them, where fewer are as fast.
        parts: what the wall time goes to, the largest first.
    """

    workers: int | None
    used: int | None
    wall: float
    parts: Sequence[Part]


def estimate(stages: Sequence[Stage], counts: Sequence[int]) -> list[Estimate]:
    """An estimate for each count, ascending, and a last one for as many workers as one likes.

    A schedule by list can come out slower on more workers; they may stand idle, so the best of the smaller counts holds.
    """
    most = max(counts)
    found: list[Estimate] = []
    best: Estimate | None = None
    for workers in sorted({*counts, *_powers_of_two(most)}):
        one = _on(stages, workers)
        if best is None or one.wall <= best.wall:
            used = best.used if best and one.wall > best.wall * (1 - _SAME) else workers
            best = replace(one, used=used)
        if workers in counts:
            found.append(replace(best, workers=workers))
    return [*found, _on(stages, None)]


def _on(stages: Sequence[Stage], workers: int | None) -> Estimate:
    parts = [part for stage in stages for part in stage.parts(workers) if part[0] > 0]
    return Estimate(workers, workers, sum(seconds for seconds, _ in parts), sorted(parts, key=lambda part: -part[0]))


def _side_by_side(pieces: Sequence[Piece], workers: int, each: int) -> float:
    free = [0.0] * max(1, workers // each)
    for seconds in sorted((piece.on(each) for piece in pieces), reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def _powers_of_two(most: int) -> Iterator[int]:
    power = 1
    while power <= most:
        yield power
        power *= 2
