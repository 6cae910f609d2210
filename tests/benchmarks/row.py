"""A line of the benchmark table."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """Ours against a peer, or against a limit.

    Attributes:
        name: what is measured, and against whom.
        ours: our figure, in `unit`; None where it could not be measured.
        peer: the peer's figure on the same rows, or the limit.
        unit: of both.
        ratio: how much better ours is; larger is better, whatever the unit.
        goal: the least ratio that will do; None where the row only informs.
        note: why a figure is missing, or what one must know to read it.
        detail: what the file has beside the figure.
    """

    name: str
    ours: float | None
    peer: float | None
    unit: str
    ratio: float | None
    goal: float | None
    note: str = ""
    detail: Any = None

    @property
    def met(self) -> bool | None:
        """Whether the goal holds; None where there is none or nothing could be measured."""
        return None if self.goal is None or self.ratio is None else self.ratio >= self.goal


def faster(name: str, ours: float, peer: float, unit: str, goal: float | None, note: str = "") -> Row:
    """A row whose figures are rates: more is better."""
    return Row(name, ours, peer, unit, ours / peer, goal, note)


def smaller(name: str, ours: float, peer: float, unit: str, goal: float | None, note: str = "") -> Row:
    """A row whose figures are costs, seconds or bytes: less is better."""
    return Row(name, ours, peer, unit, peer / ours, goal, note)


def missing(name: str, unit: str, goal: float | None, why: str) -> Row:
    """A row whose peer could not be installed or run."""
    return Row(name, None, None, unit, None, goal, why)


PATIENCE_S = 900


def run_lines(command: list[str]) -> list[dict[str, Any]]:
    """The lines of JSON that a process prints.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[-4:])} failed: {(done.stderr or done.stdout).strip()[-250:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
