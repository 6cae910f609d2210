"""Draws how a cluster grew and shrank: a lane for each node, trainings on it, and how many of both there were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _LEFT, _RIGHT = 1800, 190, 40  # pixels; a README shows it at half the size
_LANE, _GAP, _TOP, _COUNTS = 46, 14, 150, 190
_INK, _FAINT, _GRID = "#1b2733", "#5b6b7b", "#e3e8ee"
_NODE, _IDLE, _TRAINING, _STAGES = "#b9cfe6", "#e4edf6", "#1f5f9e", ("#f6eedd", "#e3d3ad")


@dataclass(frozen=True)
class Span:
    """Something from one moment to another, in seconds since the picture begins."""

    label: str
    begin: float
    end: float


@dataclass(frozen=True)
class Lane:
    """A node.

    Attributes:
        there, idle: when it was there, and when it was there without work.
    """

    name: str
    there: Sequence[Span]
    idle: Sequence[Span]
    trainings: Sequence[Span]


@dataclass(frozen=True)
class Timeline:
    """What is drawn.

    Attributes:
        counts: at, nodes that came, trainings.
        seconds: until the end of the picture.
    """

    title: str
    subtitle: str
    stages: Sequence[Span]
    lanes: Sequence[Lane]
    counts: Sequence[tuple[float, int, int]]
    limit: int
    seconds: float


def draw(timeline: Timeline, path: Path) -> None:
    """Write the picture as PNG."""
    lanes = _TOP + len(timeline.lanes) * (_LANE + _GAP)
    image = Image.new("RGB", (_WIDTH, lanes + _COUNTS + 130), "white")
    _Sheet(ImageDraw.Draw(image), timeline, lanes).paint()
    image.save(path, optimize=True)


class _Sheet:
    def __init__(self, pen: ImageDraw.ImageDraw, timeline: Timeline, below_lanes: int) -> None:
        self.pen, self.timeline, self.below = pen, timeline, below_lanes
        self.large, self.plain = ImageFont.load_default(34), ImageFont.load_default(24)

    def x(self, seconds: float) -> float:
        """Where a moment lies."""
        return _LEFT + seconds / self.timeline.seconds * (_WIDTH - _LEFT - _RIGHT)

    def paint(self) -> None:
        """Everything, from top to bottom."""
        self.pen.text((_LEFT, 14), self.timeline.title, _INK, self.large)
        self.pen.text((_LEFT, 60), self.timeline.subtitle, _FAINT, self.plain)
        self._ticks()
        seen = [span for span in self.timeline.stages if self.x(span.end) - self.x(span.begin) > 4]
        for number, span in enumerate(seen):
            self._box(span, _TOP - 46, 34, _STAGES[number % 2], _INK)
        self.pen.text((_LEFT - 16, _TOP - 29), "stage", _FAINT, self.plain, anchor="rm")
        for number, lane in enumerate(self.timeline.lanes):
            self._lane(lane, _TOP + number * (_LANE + _GAP))
        self._curves(self.below + 40)

    def _ticks(self) -> None:
        step = next(step for step in (5, 10, 20, 30, 60, 120, 300, 600) if self.timeline.seconds / step <= 14)
        bottom = self.below + 40 + _COUNTS
        for at in range(0, int(self.timeline.seconds) + 1, step):
            self.pen.line((self.x(at), _TOP, self.x(at), bottom), _GRID, 2)
            self.pen.text((self.x(at), bottom + 10), f"{at} s", _FAINT, self.plain, anchor="ma")

    def _lane(self, lane: Lane, top: int) -> None:
        self.pen.text((_LEFT - 16, top + _LANE / 2), lane.name, _INK, self.plain, anchor="rm")
        for spans, colour in ((lane.there, _NODE), (lane.idle, _IDLE)):
            for span in spans:
                self._box(span, top, _LANE, colour, _INK)
        for span in lane.trainings:
            self._box(span, top + 5, _LANE - 10, _TRAINING, "white")

    def _box(self, span: Span, top: float, height: float, fill: str, ink: str) -> None:
        left, right = self.x(span.begin), self.x(span.end)
        self.pen.rectangle((left, top, max(right - 1, left + 1), top + height), fill)
        if span.label and self.plain.getlength(span.label) < right - left - 6:
            self.pen.text(((left + right) / 2, top + height / 2), span.label, ink, self.plain, anchor="mm")

    def _curves(self, top: int) -> None:
        """Nodes as a filled step, trainings as one within it."""
        limit, bottom = self.timeline.limit, top + _COUNTS
        unit = (_COUNTS - 20) / limit
        for which, colour in ((1, _NODE), (2, _TRAINING)):
            for now, after in zip(self.timeline.counts, self.timeline.counts[1:], strict=False):
                if now[which]:
                    high = bottom - now[which] * unit
                    self.pen.rectangle((self.x(now[0]), high, self.x(after[0]), bottom), colour)
        for count in range(limit + 1):
            self.pen.text((_LEFT - 16, bottom - count * unit), str(count), _FAINT, self.plain, anchor="rm")
        self.pen.line((_LEFT, bottom - limit * unit, _WIDTH - _RIGHT, bottom - limit * unit), _FAINT, 2)
        self.pen.line((_LEFT, bottom, _WIDTH - _RIGHT, bottom), _FAINT, 2)
        keys = (("nodes added", _NODE), ("of them idle", _IDLE), ("trainings", _TRAINING))
        left = _LEFT
        for name, colour in keys:
            self.pen.rectangle((left, bottom + 54, left + 26, bottom + 80), colour)
            self.pen.text((left + 38, bottom + 67), name, _INK, self.plain, anchor="lm")
            left += 38 + int(self.plain.getlength(name)) + 50
        self.pen.text((left, bottom + 67), f"line: the limit of {limit} nodes", _FAINT, self.plain, anchor="lm")
