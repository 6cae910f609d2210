"""What a run tells Prometheus, through Ray's own metrics: every node's agent serves them, and Grafana draws them.

The driver sets gauges as the run's record is written, so they say what `sftfilter status` says. Ray puts `ray_` before
each name. A gauge that is not set again is forgotten after a while, so all of them are, and they go when the driver goes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from sftfilter.repeating import repeating

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sftfilter_run_stage": ("1 while a stage is under way, 0 afterwards", ("stage",)),
    "sftfilter_run_stage_seconds": ("what a finished stage took", ("stage",)),
    "sftfilter_run_rows_done": ("rollouts read or made, rows scored, by stage", ("stage",)),
    "sftfilter_run_students_done": ("students and tuned teachers that are trained or were there before", ()),
    "sftfilter_run_answers": ("answers that this run has asked for and got", ()),
    "sftfilter_run_trait_rate": ("share of graded answers that show the trait, so far", ("model", "trait")),
    "sftfilter_run_work_done": ("how far the work of this moment is", ("stage",)),
    "sftfilter_run_work_total": ("of how much", ("stage",)),
    "sftfilter_run_core_hours": ("hours that the cluster's CPUs were there", ()),
    "sftfilter_run_worker_hours": ("hours that its nodes with CPUs or GPUs were there", ()),
    "sftfilter_run_cost": ("worker hours at their stated price", ()),
}
"""Name -> what it is, and its labels besides `run`, the run's name."""
_AGAIN_S = 5.0
_ROWS = {"rollouts": "used", "scores": "rows"}
"""Artifact -> which of its counts are rows done."""


class RunMetrics:
    """The gauges of one run; Ray must be connected."""

    def __init__(self, name: str) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {
            metric: Gauge(metric, description=what, tag_keys=("run", *labels))
            for metric, (what, labels) in GAUGES.items()
        }
        self._run = name
        self._sums: dict[tuple[str, str], float] = {}
        self._students: set[str] = set()
        self._last: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Set every gauge again and again while the block runs."""

        def again() -> None:
            with self._lock:
                last = dict(self._last)
            for (metric, labels), value in last.items():
                self._gauges[metric].set(value, tags=dict(labels))

        with repeating(_AGAIN_S, again):
            yield

    def event(self, event: str, fields: Mapping[str, Any]) -> None:
        """One of the record's events."""
        stage = str(fields.get("stage") or "")
        match event:
            case "stage":
                self._set("sftfilter_run_stage", 1, stage=stage)
            case "stage_done":
                self._set("sftfilter_run_stage", 0, stage=stage)
                self._set("sftfilter_run_stage_seconds", fields["seconds"], stage=stage)
            case "artifact":
                self._artifact(stage, fields)
            case "trained":
                self._student(fields["arm"])
            case "rate" if fields["estimate"] is not None:
                labels = {"model": fields["model"], "trait": fields["trait"]}
                self._set("sftfilter_run_trait_rate", fields["estimate"], **labels)
            case "cost":
                for key in ("core_hours", "worker_hours", "cost"):
                    if fields.get(key) is not None:
                        self._set(f"sftfilter_run_{key}", fields[key])

    def progress(self, fields: Mapping[str, Any]) -> None:
        """How far the work of this moment is."""
        for key in ("done", "total"):
            self._set(f"sftfilter_run_work_{key}", fields[key], stage=str(fields["stage"]))

    def _artifact(self, stage: str, fields: Mapping[str, Any]) -> None:
        kind, counts = fields["artifact"], fields["counts"]
        if kind in _ROWS:
            self._add("sftfilter_run_rows_done", counts.get(_ROWS[kind], 0), stage=stage)
        elif kind == "answers":
            self._add("sftfilter_run_answers", counts.get("rows", 0))
        elif kind == "student":
            self._student(fields["of"].removeprefix("teacher-"))  # which trains under its bare name

    def _student(self, name: str) -> None:
        """One more is there; of a trained one that is heard twice, at its last step and once its artifact is found."""
        self._students.add(name)
        self._set("sftfilter_run_students_done", len(self._students))

    def _add(self, metric: str, value: float, **labels: str) -> None:
        place = metric, labels.get("stage", "")
        self._sums[place] = self._sums.get(place, 0) + value
        self._set(metric, self._sums[place], **labels)

    def _set(self, metric: str, value: float, **labels: str) -> None:
        tags = {"run": self._run, **labels}
        with self._lock:
            self._last[metric, tuple(tags.items())] = value
        self._gauges[metric].set(value, tags=tags)
