"""What a run is doing: its stages, artifacts, rates so far and time left, out of its record."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.processes import of_this_process
from jobs.run_lock import silent_s
from jobs.run_record import EVENTS, PROGRESS, parse_events
from sftfilter.config import did_you_mean
from sftfilter.errors import DataError, MachineError, SpecError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

_FRESH_S = 60.0
_SILENT_S = 60.0
"""A run gives a sign of life every few seconds, and a server of files may show it a while later. Who takes the run up again
waits for another one in any case (see `run_lock`), so clocks that differ cost no more than a wrong word here."""


@dataclass
class StageState:
    """One stage of a run. `seconds` is None while it is under way."""

    name: str
    what: str
    began: str
    seconds: float | None = None
    done: bool = False
    made: int = 0
    reused: int = 0


@dataclass
class RunStatus:
    """A run as its record tells it.

    Attributes:
        state: running, finished, failed, interrupted, or `ended without a word` (killed).
        rates: by (model, trait): the event `rate`.
        progress: how far the work of this moment is, if it said so within the last minute.
        hours: of the cluster so far: `core_hours`, `worker_hours`, and `cost` where the spec states a price.
        hours_before: the same of earlier attempts in this record.
        silent_s: of a run on another machine: seconds since its last sign of life, where it gave any.
        arms: trained students -> their steps.
        spec_hash: of what was run, where the record tells it.
    """

    name: str
    kind: str
    state: str
    began: str
    command: str
    cwd: str
    pid: int
    pid_started: float | None
    host: str
    error: str | None = None
    seconds: float | None = None
    stages: dict[str, StageState] = field(default_factory=dict)
    rates: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    progress: dict[str, Any] | None = None
    hours: dict[str, float | None] = field(default_factory=dict)
    hours_before: dict[str, float] = field(default_factory=dict)
    silent_s: float | None = None
    arms: dict[str, int] = field(default_factory=dict)
    spec_hash: str | None = None

    @property
    def on_this_machine(self) -> bool:
        """Whether it was started on this machine."""
        return self.host == os.uname().nodename

    @property
    def here(self) -> bool:
        """Whether its process runs on this machine."""
        return self.on_this_machine and of_this_process(self.pid, self.pid_started)

    @property
    def seconds_left(self) -> float | None:
        """Of the work of this moment, at its pace so far; other stages are not counted."""
        if not self.progress or not self.progress.get("done") or not self.progress.get("total"):
            return None
        done, total = self.progress["done"], self.progress["total"]
        return self.progress["seconds"] * max(0, total - done) / done

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        flat = asdict(self) | {"rates": list(self.rates.values()), "stages": [asdict(s) for s in self.stages.values()]}
        return flat | {"seconds_left": self.seconds_left}


def local_status(results: Path, name: str) -> RunStatus:
    """The last run recorded in a folder of results.

    Raises:
        SpecError: no run of that name.
        DataError: its record cannot be read.
    """
    record = results / name / EVENTS
    try:
        lines = record.read_text().splitlines()
    except OSError:
        known = [path.parent.name for path in results.glob(f"*/{EVENTS}")]
        hint = did_you_mean(name, known) or (f"; there are: {', '.join(sorted(known))}" if known else "")
        raise SpecError(f"no run '{name}' below {results}{hint}; for one on a cluster give --address") from None
    status = status_of(lines, str(record))
    if status.state == "running" and not status.here:
        status.silent_s = silent_s(results / name)
        if status.on_this_machine or (status.silent_s or 0.0) > _SILENT_S:
            status.state = "ended without a word"
    try:
        status.progress = _fresh(json.loads((results / name / PROGRESS).read_text()), lines, status)
    except (OSError, json.JSONDecodeError):
        status.progress = None
    return status


def cluster_status(client: JobSubmissionClient, job: JobDetails) -> RunStatus | None:
    """The run of a job, or None where it has not begun (or its node is gone)."""
    from jobs.run import mirror_name

    stem = mirror_name(str(job.submission_id))
    text = _log_file(client, job, f"{stem}.{EVENTS}")
    if not text:
        return None
    status = status_of(text.splitlines(), f"{stem}.{EVENTS}")
    if status.state == "running" and job.status.is_terminal():
        status.state = "ended without a word"
    try:
        status.progress = _fresh(
            json.loads(_log_file(client, job, f"{stem}.{PROGRESS}") or "{}"), text.splitlines(), status
        )
    except json.JSONDecodeError:
        status.progress = None
    return status


def _log_file(client: JobSubmissionClient, job: JobDetails, name: str) -> str | None:
    """A file among the logs of the job's node; None where it (or the node) is not there.

    `ray.util.state.get_log` asks the cluster's GCS for the dashboard's address, which is not reached from outside;
    so the client we have asks, with its token and its certificates.

    Raises:
        MachineError: the dashboard does not answer.
    """
    if job.driver_node_id is None:
        return None
    query = {"node_id": job.driver_node_id, "filename": name, "lines": -1}
    try:
        reply = client._do_request("GET", "/api/v0/logs/file", params=query, timeout=60)
    except OSError as error:  # requests' errors are OSErrors
        raise MachineError(f"no record of the run from {client.get_address()}: {error}; ask again") from error
    return reply.content.decode(errors="replace") if reply.status_code == 200 else None


def status_of(lines: Sequence[str], where: str) -> RunStatus:
    """The last run in a record; a line that was cut off by a kill is passed over.

    Raises:
        DataError: it holds no run.
    """
    events = parse_events(lines)
    runs = [event for event in events if event["event"] == "run"]
    if not runs:
        raise DataError(f"{where}: holds no run; delete it")
    first = runs[-1]
    told = ("name", "kind", "command", "cwd", "pid", "pid_started", "host", "spec_hash")
    kept = {key: first.get(key) for key in told}
    status = RunStatus(state="running", began=first["time"], **kept)  # pyright: ignore[reportArgumentType]
    for event in events:
        if event["run"] == first["run"]:
            _apply(status, event)
    status.hours_before = _hours_before(events, first["run"])
    return status


def _hours_before(events: Sequence[Mapping[str, Any]], run: str) -> dict[str, float]:
    """Hours of all attempts but one; of each its last word counts."""
    last = {event["run"]: event for event in events if event["event"] == "cost" and event["run"] != run}
    return {key: sum(event[key] for event in last.values()) for key in ("core_hours", "worker_hours")} if last else {}


def _apply(status: RunStatus, event: Mapping[str, Any]) -> None:
    stage = status.stages.get(event.get("stage", ""))
    match event["event"]:
        case "stage":
            status.stages[event["stage"]] = StageState(event["stage"], event["what"], event["time"])
        case "stage_done" if stage:
            stage.seconds, stage.done = event["seconds"], event["done"]
        case "artifact" if stage:
            stage.made += not event["reused"]
            stage.reused += event["reused"]
        case "rate":
            status.rates[event["model"], event["trait"]] = {
                key: event[key] for key in ("model", "trait", "group", "estimate", "low", "high", "n")
            }
        case "cost":
            status.hours = {key: event[key] for key in ("core_hours", "worker_hours", "cost")}
        case "trained":
            status.arms[event["arm"]] = event["steps"]
        case "note":
            status.notes.append(event["text"])
        case "end":
            status.state, status.seconds, status.error = event["status"], event["seconds"], event["error"]


def _fresh(progress: dict[str, Any], lines: Sequence[str], status: RunStatus) -> dict[str, Any] | None:
    """Progress of this very run, told not long ago."""
    runs = [event["run"] for event in parse_events(lines) if event["event"] == "run"]
    told_now = time.time() - progress.get("time", 0) < _FRESH_S
    return progress if status.state == "running" and progress.get("run") == runs[-1] and told_now else None


def status_lines(status: RunStatus, price: float | None = None) -> list[str]:
    """For a person: the run, a line a stage, rates and cost so far, and how to go on.

    Args:
        price: of a worker's hour, instead of the spec's.
    """
    lines = [f"{status.name} ({status.kind}): {status.state}, begun {_moment(status.began)}"]
    if not status.on_this_machine and status.silent_s is not None:
        lines.append(f"  on {status.host}, whose last sign of life is {status.silent_s:.0f} s old")
    if status.error:
        lines.append(f"  {status.error}")
    for stage in status.stages.values():
        took = f"{stage.seconds:8.1f} s" if stage.seconds is not None else "   under way"
        mark = "" if stage.done or stage.seconds is None else "  not finished"
        lines.append(f"  {stage.name:<11} {took:>12}  made {stage.made}, reused {stage.reused}  {stage.what}{mark}")
    if status.progress:
        lines.append(f"  now: {_progress(status)}")
    if status.arms:
        lines.append(f"  trained: {', '.join(f'{arm} ({steps} steps)' for arm, steps in status.arms.items())}")
    if status.hours:
        lines.append(f"cost so far: {_cost(status, price)}")
    if status.rates:
        lines.append("rates so far (95 % intervals over prompts)")
    for rate in status.rates.values():
        interval = f"[{100 * rate['low']:.0f}-{100 * rate['high']:.0f}]"
        shown = f"{rate['estimate']:.0%} {interval}, {rate['n']} prompts"
        lines.append(f"  {rate['model']:<28} {rate['trait']}, {rate['group']}: {shown}")
    lines += [f"note: {note}" for note in status.notes]
    if status.state not in ("running", "finished"):
        lines.append(f"finished stages are kept; go on with: sftfilter resume {status.name}")
    return lines


def _cost(status: RunStatus, price: float | None) -> str:
    """Core-hours, and money where a price is known; of earlier attempts apart."""
    cores, workers = status.hours["core_hours"] or 0.0, status.hours["worker_hours"] or 0.0
    money = status.hours["cost"] if price is None else workers * price
    shown = f"{cores:.3g} core-hours, {workers:.3g} worker-hours"
    if money is not None:
        shown = f"{money:.2f} ({shown})"
    before = status.hours_before
    return shown + (f"; earlier attempts took {before['core_hours']:.3g} core-hours besides" if before else "")


def _progress(status: RunStatus) -> str:
    progress = status.progress or {}
    left = status.seconds_left
    pace = f", {progress['rate']}" if progress.get("rate") else ""
    return f"{progress['unit']}: {progress['done']} of {progress['total']}{pace}" + (
        f", about {datetime.timedelta(seconds=round(left))} left of this (later stages not counted)"
        if left is not None
        else ""
    )


def _moment(time_: str) -> str:
    return datetime.datetime.fromisoformat(time_).astimezone().strftime("%Y-%m-%d %H:%M:%S")
