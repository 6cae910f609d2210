"""Costs out of a run's record: what each stage made, and how long that took."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jobs.run_record import EVENTS, parse_events
from sftfilter.artifacts import MARKER
from sftfilter.config import did_you_mean
from sftfilter.errors import DataError

_WORKING = {"teachers", "rollouts", "reserve", "scores", "decisions", "training", "students", "evaluation"}
"""Stages whose cost is told by what they make; the others run on the head alone."""


@dataclass(frozen=True)
class Step:
    """An event of a run, and the seconds since the one before it in the same run.

    Attributes:
        first: whether it is the first after the run began.
    """

    event: Mapping[str, Any]
    seconds: float
    first: bool

    def made(self, artifact: str) -> bool:
        """Whether it tells that such an artifact was made, not reused."""
        return self.event["event"] == "artifact" and self.event["artifact"] == artifact and not self.event["reused"]


def read_events(folder: Path) -> list[dict[str, Any]]:
    """A run's record, lines that a kill cut off left out.

    Raises:
        DataError: the folder holds no record.
    """
    try:
        lines = (folder / EVENTS).read_text().splitlines()
    except OSError:
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{EVENTS}"))
        hint = did_you_mean(folder.name, known) or (f"; there are: {', '.join(known)}" if known else "")
        raise DataError(
            f"{folder / EVENTS}: no record of a run{hint}; name the folder of a run, such as runs/quickstart"
        ) from None
    return parse_events(lines)


def measure(folder: Path) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """What a run's record says of costs: values by field, their sources, and notes."""
    events = read_events(folder)
    steps = list(_steps(events))
    results = _results(folder)
    kinds = {name: s["kind"] for name, s in ((results or {}).get("spec", {}).get("scorers") or {}).items()}
    found: dict[str, tuple[Any, str]] = {}
    found |= _machine(results)
    found |= _of_rollouts(steps)
    found |= _of_scores(steps, kinds)
    found |= _of_students(steps, folder.parent / "artifacts")
    found |= _of_answers(steps)
    found |= _of_the_head(steps)
    notes = [f"costs hold for rows, models and settings like those of {folder}"]
    if not any(event["event"] == "end" and event["status"] == "finished" for event in events):
        notes.append(f"{folder} has not finished: stages that it has not done have no cost from it")
    told = {name: f"measured: {source}" for name, (_, source) in found.items()}
    return {name: value for name, (value, _) in found.items()}, told, notes


def _steps(events: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
    """Every event with the time since the one before it; events of runs that overlap are kept apart."""
    by_run: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        by_run[event["run"]].append(event)
    for of_run in by_run.values():
        for before, event in itertools.pairwise(of_run):
            yield Step(event, (_time(event) - _time(before)).total_seconds(), before["event"] == "run")


def _time(event: Mapping[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromisoformat(event["time"])


def _results(folder: Path) -> dict[str, Any] | None:
    for name in ("results.json", "train.json", "scores.json", "generate.json"):
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return json.loads((folder / name).read_text())
    return None


def _machine(results: Mapping[str, Any] | None) -> dict[str, tuple[Any, str]]:
    """What a worker is: the GPUs that training used, or all cores of the machine."""
    spec = (results or {}).get("spec", {})
    execution = (spec.get("experiment") or spec).get("execution") or {}
    if execution.get("use_gpu"):
        workers = execution["workers"]
        number = workers if isinstance(workers, int) else workers[1]
        return {"device": ("GPU", "its training"), "devices": (number, "its training workers")}
    cores = (results or {}).get("versions", {}).get("cores")
    source = "cores of its machine" if cores else "cores of this machine, it wrote down no others"
    return {"device": ("core", "no GPU in its spec"), "devices": (cores or os.cpu_count() or 1, source)}


def _of_rollouts(steps: Sequence[Step]) -> dict[str, tuple[Any, str]]:
    per: dict[str, float] = {}
    rows, seconds = 0, 0.0
    for step in steps:
        counts = step.event.get("counts") or {}
        if step.made("rollouts") and "cut_at_max_new_tokens" in counts and counts["used"]:
            if step.event["stage"] == "rollouts":  # those of the base are answers that teachers are tuned on
                per[step.event["of"]] = step.seconds / counts["used"]
            rows, seconds = rows + counts["used"], seconds + step.seconds
    return {"rollout_s": (per | {"any": seconds / rows}, f"{rows:,} answers")} if rows else {}


def _of_scores(steps: Sequence[Step], kinds: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """By scorer and by its kind; the time beside the actors' own is loading."""
    found = {step.event["key"]: step.event for step in steps if step.event.get("artifact") == "scores"}
    row_s, setup_s, total = {}, {}, 0
    for event in found.values():
        counts = event["counts"]
        rows = counts["rows"] - counts.get("scored_before", 0)
        if not rows or "scoring_seconds" not in counts:
            continue
        name = event["of"].split(" on ")[0]
        total += rows
        for key in filter(None, (name, kinds.get(name))):
            row_s[key] = min(counts["scoring_seconds"], counts["seconds"]) / rows
            setup_s[key] = max(0.0, counts["seconds"] - counts["scoring_seconds"])
    source = f"{total:,} scores"
    return {"score_s": (row_s, source), "score_setup_s": (setup_s, source)} if total else {}


def _of_students(steps: Sequence[Step], artifacts: Path) -> dict[str, tuple[Any, str]]:
    events = {s.event["key"]: s.event for s in steps if s.event.get("artifact") == "student"}
    visits: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    sizes = []
    for key, event in events.items():
        folder = artifacts / f"student-{key}"
        try:
            batch = json.loads((folder / MARKER).read_text())["settings"]["batch"]
        except (OSError, json.JSONDecodeError, KeyError):
            continue  # deleted since
        for role in ("teacher" if event["stage"] == "teachers" else "student", "any"):
            visits[role] += event["counts"]["steps"] * batch
            seconds[role] += event["counts"]["seconds"]
        sizes.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30)
    if not visits:
        return {}
    source = f"{len(sizes)} student{'s' * (len(sizes) != 1)}"
    found: dict[str, tuple[Any, str]] = {
        "train_row_s": ({role: seconds[role] / visits[role] for role in visits}, f"{source}, {visits['any']:,} rows")
    }
    found["checkpoint_gib"] = (sum(sizes) / len(sizes), source)
    if setups := _setups(steps):
        found["train_setup_s"] = (median(setups), f"training less {source}' own time")
    return found


def _setups(steps: Sequence[Step]) -> list[float]:
    """Of each stage that trained, what it took beside its students' own time; they are all told at its end."""
    waited: dict[tuple[str, str], float] = defaultdict(float)
    told: set[tuple[str, str]] = set()
    for step in steps:
        if not step.made("student"):
            continue
        event = step.event
        shared = (event["run"], event["key"]) in told  # two arms may have one student
        told.add((event["run"], event["key"]))
        waited[event["run"], event["stage"]] += step.seconds - (0.0 if shared else event["counts"]["seconds"])
    return [max(0.0, seconds) for seconds in waited.values()]


def _of_answers(steps: Sequence[Step]) -> dict[str, tuple[Any, str]]:
    """The first answers of a stage wait for the endpoint, so what they took longer than the others is its start."""
    made = [step for step in steps if step.made("answers") and step.event["counts"].get("rows")]
    if not made:
        return {}
    firsts = {step.event["run"]: step for step in reversed(made)}.values()
    later = [step for step in made if step not in firsts] or made
    rows = sum(step.event["counts"]["rows"] for step in later)
    each = sum(step.seconds for step in later) / rows
    starts = [max(0.0, step.seconds - each * step.event["counts"]["rows"]) for step in firsts]
    found: dict[str, tuple[Any, str]] = {"answer_s": (each, f"{rows:,} answers")}
    found["serve_setup_s"] = (median(starts), "its first answers beside the others")
    losses = [step.seconds for step in steps if step.made("loss")]
    if losses:
        found["model_s"] = (sum(losses) / len(losses), f"held-out loss of {len(losses)} models")
    return found


def _of_the_head(steps: Sequence[Step]) -> dict[str, tuple[Any, str]]:
    """Start, decisions, and the stages that make nothing on workers, each as long as it last took."""
    done = {s.event["stage"]: s.event["seconds"] for s in steps if s.event["event"] == "stage_done" and s.event["done"]}
    starts = [s.seconds for s in steps if s.first and s.event["event"] == "stage"]
    alone = {name: seconds for name, seconds in done.items() if name not in _WORKING}
    found: dict[str, tuple[Any, str]] = {}
    if starts:
        found["start_s"] = (median(starts), f"{len(starts)} starts")
    if alone:
        found["head_s"] = (sum(alone.values()), ", ".join(alone))
    students = {s.event["of"] for s in steps if s.event.get("artifact") == "student" and s.event["stage"] == "training"}
    if "decisions" in done and students:
        found["decide_s"] = (done["decisions"] / len(students), f"{len(students)} students")
    return found
