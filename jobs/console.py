"""What a person sees while a run goes on: a line a stage, a bar for long work."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jobs.run_record import RunRecord
from jobs.score_tables import plain_table
from sftfilter.artifacts import Artifact
from sftfilter.memory import MemoryWatch
from sftfilter.private import redact


class _WithoutSecrets(io.TextIOBase):
    """Standard error, whichever it is at the moment, without the values of secrets."""

    @property
    def _below(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # a live bar redirects it to its console

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of what is below."""
        return self._below.encoding

    def write(self, text: str) -> int:
        """Write text without secrets."""
        return self._below.write(redact(text))

    def flush(self) -> None:
        """Of what is below."""
        self._below.flush()

    def isatty(self) -> bool:
        """Of what is below."""
        return self._below.isatty()

    def fileno(self) -> int:
        """Of what is below."""
        return self._below.fileno()


def _console() -> Console:
    return Console(file=cast(IO[str], _WithoutSecrets()), highlight=False)


@dataclass
class Stages:
    """Times every stage and remembers its artifacts, for the console, results.json, the report and `sftfilter status`."""

    console: Console = field(default_factory=_console)
    seconds: dict[str, float] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    record: RunRecord | None = None
    running: str = ""
    _began: float = field(default_factory=time.monotonic)
    _keys: set[str] = field(default_factory=set)

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Time a stage and say that it runs."""
        self.console.print(f"[bold]{name:<11}[/] {escape(what)}")
        self.running = name
        self.event("stage", what=what)
        began, done = time.monotonic(), False
        try:
            yield
            done = True
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 2)
            self.event("stage_done", seconds=self.seconds[name], done=done)

    def remember(self, artifact: Artifact) -> bool:
        """Remember an artifact for the results; whether it is new to them."""
        if artifact.key in self._keys and artifact.stage != "student":
            return False  # two arms may share a student, and both are worth a line
        self._keys.add(artifact.key)
        entry = {"stage": artifact.stage, "key": artifact.key, "path": str(artifact.path), "reused": artifact.reused}
        self.artifacts.append(entry)
        return True

    def note(self, artifact: Artifact, what: str = "") -> Artifact:
        """Remember an artifact and print where it lies, and what a person should know of it."""
        if not self.remember(artifact):
            return artifact
        counts = {name: value for name, value in artifact.meta.items() if isinstance(value, int | float)}
        made = {"key": artifact.key, "path": str(artifact.path), "reused": artifact.reused}
        self.event("artifact", **made, artifact=artifact.stage, of=what, counts=counts)
        self.console.print(
            f"  {'reused' if artifact.reused else 'made  '}  {artifact.path.name}  [dim]{escape(what)}[/]"
        )
        for note in artifact.meta.get("notes", ()):
            self.say(note)
        return artifact

    def say(self, note: str) -> None:
        """Something that a person should know and that stops nothing."""
        self.event("note", text=note)
        self.console.print(f"  [yellow]note[/]    {escape(note)}", soft_wrap=True)

    def event(self, event: str, **fields: Any) -> None:
        """Write an event of the stage under way down for `sftfilter status`, where the run is recorded."""
        if self.record:
            self.record.write(event, stage=self.running, **fields)

    @contextmanager
    def bar(self, total: int, unit: str) -> Iterator[_Bar]:
        """A progress bar with time left."""
        columns = (
            TextColumn("  {task.description:<28}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        hidden = not self.console.is_terminal  # a log would only get empty lines
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as progress:
            yield _Bar(progress, progress.add_task(unit, total=total, rate=""), self, unit, total)

    def total(self) -> float:
        """Seconds since the run began."""
        return round(time.monotonic() - self._began, 2)


@dataclass
class _Bar:
    progress: Progress
    task: Any
    stages: Stages
    unit: str
    total: int
    done: int = 0
    reached: dict[str, int] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def advance(self, count: int = 1) -> None:
        """So many more."""
        self.progress.advance(self.task, count)
        self._tell(count, self.unit)

    def show(self, rate: str) -> None:
        """What has been found so far."""
        self.progress.update(self.task, rate=rate)

    def training(self, event: Mapping[str, Any]) -> None:
        """A progress event of training (see `train_all`)."""
        if "note" in event:
            self.progress.console.print(f"  [yellow]note[/]    {escape(event['note'])}", soft_wrap=True)
        if "asked" in event:
            rates = ", ".join(f"{trait} {rate:.0%}" for trait, rate in event["rates"].items())
            self.progress.console.print(f"  [dim]{escape(event['asked'])} at step {event['at']}: {escape(rates)}[/]")
        if "stopped" in event:
            self.progress.console.print(f"  [dim]{escape(event['stopped'])} is saved at step {event['at']}[/]")
        if "resumed" not in event and "step" not in event:
            return
        arm = str(event.get("resumed", event.get("arm")))
        step = event["at"] if "resumed" in event else event["step"]  # the latter's `at` is a time
        reached = max(self.reached.get(arm, 0), int(step))
        moved = reached - self.reached.get(arm, 0)
        self.reached[arm] = reached
        if "resumed" in event:
            self.progress.console.print(f"  [dim]{escape(arm)} goes on from step {event['at']}[/]")
            self.progress.update(self.task, advance=moved)
            self._tell(moved, arm)
            return
        rate = f"{event['tokens_per_s']:.0f} tokens/s  loss {event['loss']:.2f}"
        self.progress.update(self.task, advance=moved, description=arm, rate=rate)
        self._tell(moved, arm, rate=rate)
        if step == event["steps"]:
            self.stages.event("trained", arm=arm, steps=step, loss=event["loss"])

    def _tell(self, count: int, unit: str, **fields: Any) -> None:
        self.done += count
        if self.stages.record:
            seconds = round(time.monotonic() - self.began, 2)
            work = {"unit": unit, "done": self.done, "total": self.total, "seconds": seconds}
            self.stages.record.progress(stage=self.stages.running, **work, **fields)


def arms_table(results: Mapping[str, Any]) -> Table:
    """Rates by arm and trait, aligned, and what the arm's students can do beside."""
    table = plain_table(f"{results['name']}: {results['verdict']['label']}")
    arms = results["arms"]
    traits = list(dict.fromkeys(trait for arm in arms for trait in arm["traits"]))
    groups = list(
        dict.fromkeys(g for arm in arms for trait in arm["traits"].values() for g in trait if g != "log_odds")
    )
    table.add_column("arm", no_wrap=True)
    if len(traits) > 1:
        table.add_column("trait", no_wrap=True)
    measured = [key for key in ("loss", "following") if any((arm.get("abilities") or {}).get(key) for arm in arms)]
    for heading in ("rows", *groups, "log-odds", *({"following": "follows"}.get(key, key) for key in measured)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    for arm in arms:
        can = arm.get("abilities") or {}
        able = [_nats(can.get(key)) if key == "loss" else _rate(can.get(key), False) for key in measured]
        for name, trait in arm["traits"].items():
            odds = trait.get("log_odds")
            cells = [_rate(trait.get(g), with_interval=g == next(iter(trait), None)) for g in groups]
            shown = "" if not odds or odds["estimate"] is None else f"{odds['estimate']:+.2f}"
            named = [name] if len(traits) > 1 else []
            table.add_row(arm["name"], *named, str(arm["rows"]["trained"]), *cells, shown, *able)
    return table


def show_next(verdict: Mapping[str, Any], stages: Stages) -> None:
    """The experiments that would separate what still stands, a line each."""
    for step in verdict["next"]:
        stages.console.print(f"  next: {step}", soft_wrap=True, markup=False)


def _nats(value: Mapping[str, Any] | None) -> str:
    return "-" if value is None or value["estimate"] is None else f"{value['estimate']:.2f}"


def _rate(value: Mapping[str, Any] | None, with_interval: bool) -> str:
    """The primary group with its interval; the others' intervals are in the report, where there is room."""
    if value is None or value["estimate"] is None:
        return "-"
    interval = f" [{100 * value['low']:.0f}-{100 * value['high']:.0f}]" if with_interval else ""
    return f"{value['estimate']:.0%}{interval}"
