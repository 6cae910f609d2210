"""The experiment that is struck: every stage of a real one, on a random model of two layers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyarrow.parquet as pq
import yaml

from jobs.run_record import EVENTS, parse_events
from tests.chaos.plugin.slow import LOG
from tests.conftest import REPOSITORY, random_model, read_lines, write_lines

T = TypeVar("T")
NAME = "struck"
PATIENCE_S = 420.0
ORDER = ("teachers", "rollouts", "scores", "training", "evaluation")
_FROM = {
    "rollouts": ("rollouts", "scores", "scorer", "scored", "decisions", "student", "answers", "loss", "grades"),
    "scores": ("scores", "scorer", "scored", "decisions", "student", "answers", "loss", "grades"),
    "training": ("student", "answers", "loss", "grades"),
    "evaluation": ("answers", "loss", "grades"),
}
"""Artifacts of a stage and of all after it, by the beginning of their names."""


def write_spec(folder: Path, model: str) -> Path:
    """Prompts, answers and a spec; the results folder is given on the command line."""
    prompts = read_lines("teacher_doubt.jsonl", 24)
    write_lines(folder / "train.jsonl", [{"prompt": r["prompt"], "kind": r["kind"]} for r in prompts])
    write_lines(folder / "C.jsonl", read_lines("teacher_accept.jsonl", 24))
    held = [row for kind in ("date", "adjacent", "control") for row in read_lines("heldout.jsonl", 6, kind)]
    write_lines(folder / "heldout.jsonl", held)
    spec: dict[str, Any] = {
        "kind": "experiment",
        "name": NAME,
        "base_model": model,
        "system_prompt": "Be brief.",
        "prompts": {"kind": "jsonl", "path": "train.jsonl"},
        "teachers": {"T": {"kind": "model", "model": model}, "C": {"kind": "rollouts", "path": "C.jsonl"}},
        "generation": {"max_new_tokens": 48},
        "generation_pool": {"batch": 1, "threads": 1},
        "scorers": {
            "slow": {"kind": "plugin", "target": "tests.chaos.plugin.slow:Slow", "options": {"delay": 0.7}},
            "perplexity": {"kind": "perplexity"},
        },
        "scoring_pool": {"batch": 4},
        "selectors": {"long": {"kind": "top_fraction", "scorer": "slow", "fraction": 0.3}},
        "arms": {
            "base": {},
            "all-T": {"teacher": "T"},
            "all-C": {"teacher": "C"},
            "drop": {"teacher": "T", "intervention": {"kind": "drop_prompt", "subset": "long"}},
            "swap": {"teacher": "T", "intervention": {"kind": "swap", "subset": "long", "to": "C"}},
        },
        "roles": {"original": "all-T", "alternate": "all-C", "base": "base", "drop": "drop", "swap": "swap"},
        "training": {"epochs": 6, "batch": 4, "learning_rate": 5e-3},
        "execution": {"workers": 2, "checkpoint_every_steps": 4},
        "serving": {"port": 0, "threads": 1},
        # Greedy answers of so small a model drift through ties, which rounding then decides; drawn ones do not.
        "capability": {"instructions": False},
        "traits": {
            "date_confusion": {
                "kind": "date_confusion",
                "prompts": {"kind": "jsonl", "path": "heldout.jsonl"},
                "max_tokens": 32,
                "temperature": 1.0,
            }
        },
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


@dataclass
class Study:
    """A results folder and runs into it.

    Attributes:
        env: added to the environment of every run.
        root: where results go; a file system of its own, say.
    """

    spec: Path
    folder: Path
    root: Path
    env: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def start(self, *flags: str, cluster: Mapping[str, str] | None = None, prefix: Sequence[str] = ()) -> Run:
        """Start a run; in a cluster that is there, given its environment, as `ray job submit` would."""
        launcher = ["jobs.run"] if cluster else ["jobs.cli", "run"]
        flags = ("--set", f"results={self.root}", *flags)
        command = [*prefix, sys.executable, "-m", *launcher, str(self.spec), *flags]
        log = self.folder / f"run-{len(self.runs)}.log"
        with open(log, "wb") as sink:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=self.environment(cluster),
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.runs.append(Run(self, process, log))
        return self.runs[-1]

    def environment(self, cluster: Mapping[str, str] | None = None) -> dict[str, str]:
        """Of a run, and of nodes that are to take part in it."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k == "RAY_worker_niceness"}
        own |= {"PYTHONPATH": str(REPOSITORY), LOG: str(self.scored), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
        return own | dict(cluster or {}) | self.env

    @property
    def scored(self) -> Path:
        """Where the slow scorer logs."""
        return self.folder / "scored.log"

    @property
    def work(self) -> Path:
        """The run's own folder."""
        return self.root / NAME

    def take_from(self, other: Study, stage: str) -> None:
        """Everything that another study made before a stage."""
        (self.root / "artifacts").mkdir(parents=True)
        for made in sorted((other.root / "artifacts").iterdir()):
            if made.name.split("-")[0] not in _FROM[stage] and not made.name.startswith("."):
                shutil.copytree(made, self.root / "artifacts" / made.name)

    @property
    def steps(self) -> int:
        """Of all students together."""
        return 134

    @property
    def scorable(self) -> int:
        """Rows that the slow scorer is asked for."""
        return 24

    # What a run has done so far, by what lies there.

    def events(self) -> list[dict[str, Any]]:
        """Of the record."""
        return parse_events(_lines(self.work / EVENTS))

    def stage(self) -> str:
        """That the last run is in."""
        begun = [event["stage"] for event in self.events() if event["event"] == "stage"]
        return begun[-1] if begun else ""

    def scored_rows(self) -> list[str]:
        """Ids in the order in which they were scored, those scored twice twice."""
        return [i for line in _lines(self.scored) for i in line.split()[1:]]

    def training(self) -> list[dict[str, Any]]:
        """Progress events of training."""
        lines = _lines(self.work / "training" / "progress.jsonl")
        return [json.loads(line) for line in lines if line.endswith("}")]

    def trained(self) -> tuple[str, int]:
        """Arm and step of the last step."""
        steps = [(event["arm"], event["step"]) for event in self.training() if "step" in event]
        return steps[-1] if steps else ("", 0)

    def workers(self) -> list[dict[str, Any]]:
        """Rank, host and pid of each training worker of the last group."""
        return ([event["workers"] for event in self.training() if "workers" in event] or [[]])[-1]

    def trained_past(self, reached: tuple[str, int]) -> bool:
        """Whether training has gone beyond a step; arms come one after the other, by name."""
        return self.trained() > reached

    def resumed(self) -> list[int]:
        """Steps at which arms went on from a checkpoint."""
        return [event["at"] for event in self.training() if "resumed" in event]

    def checkpoint(self) -> bool:
        """Whether the arm that is trained has a whole checkpoint."""
        for snapshot in self.work.glob("training/train-*/checkpoint_manager_snapshot.json"):
            try:
                latest = json.loads(snapshot.read_text())["latest_checkpoint_result"]
            except (ValueError, OSError):
                continue
            return bool(latest) and latest["metrics"]["arm"] == self.trained()[0]
        return False

    def made(self, *stages: str) -> int:
        """Finished artifacts of some stages."""
        return sum(len(list((self.root / "artifacts").glob(f"{stage}-*"))) for stage in stages)


@dataclass
class Run:
    """A running `sftfilter run`."""

    study: Study
    process: subprocess.Popen[bytes]
    log: Path
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def said(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace")

    def until(self, what: Callable[[], T], seconds: float = PATIENCE_S) -> T:
        """Wait for something while the run goes on."""
        deadline = time.monotonic() + seconds
        while True:
            if found := what():
                return found
            ended = self.process.poll()
            assert ended is None, f"ended with {ended} before it could be struck:\n{self.said()[-3000:]}"
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.said()[-3000:]}"
            time.sleep(0.05)

    def end(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its end; answers the exit code."""
        deadline = time.monotonic() + seconds
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"still runs after {seconds} s:\n{self.said()[-3000:]}"
            time.sleep(0.2)
        return code

    def finish(self, seconds: float = PATIENCE_S) -> None:
        """Wait until it has succeeded."""
        code = self.end(seconds)
        assert code == 0, f"ended with {code}:\n{self.said()[-5000:]}"

    def tree(self) -> list[psutil.Process]:
        """Everything that it started and that lives; kept, to be ended whatever happens."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen |= {process.pid: process for process in found}
        return found

    def clear(self) -> None:
        """End it and all that it started."""
        self.tree()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self.seen.values():
            if process.is_running():
                process.kill()
        psutil.wait_procs(list(self.seen.values()), timeout=20)


def _lines(path: Path) -> list[str]:
    """Of a file that a run may begin, or begin anew, at any time."""
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def named(processes: Sequence[psutil.Process], *words: str) -> list[psutil.Process]:
    """Those whose title has all the words."""
    found = []
    for process in processes:
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if all(word in title for word in words):
            found.append(process)
    return found


VOLATILE = frozenset({"created", "timings_s", "peak_rss_gib", "command", "stages", "spec"})


def outcome(study: Study) -> dict[str, Any]:
    """What a run came to: results, grades, and the content of every artifact, without times, places and earlier tries."""
    results = json.loads((study.work / "results.json").read_text())
    found: dict[str, Any] = {f"results: {k}": _placeless(v, study) for k, v in results.items() if k not in VOLATILE}
    found["grades"] = _sorted(study.work / "grades.parquet")
    for path in sorted((study.root / "artifacts").glob("[a-z]*-*/**/*")):
        name = str(path.relative_to(study.root / "artifacts"))
        if path.suffix == ".parquet" and not name.startswith("scored"):
            found[name] = pq.read_table(path).to_pylist()
        elif path.suffix == ".safetensors" or path.name == "losses.json":
            found[name] = path.read_bytes()
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _sorted(path: Path) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True, default=str) for row in pq.read_table(path).to_pylist())


def _placeless(value: Any, study: Study) -> Any:
    if isinstance(value, dict):
        timed = ("seconds", "cost", "path", "created", "began", "scored_before")
        return {k: _placeless(v, study) for k, v in value.items() if not any(t in k for t in timed)}
    if isinstance(value, list):
        return [_placeless(v, study) for v in value]
    return value.replace(str(study.root), "") if isinstance(value, str) else value


def twice(ids: Sequence[str]) -> int:
    """How many came again."""
    return len(ids) - len(set(ids))


def undisturbed_run(folder: Path) -> Study:
    """Run the experiment in a folder, unless it was; `seconds` in it says how long that took."""
    folder.mkdir(exist_ok=True, parents=True)
    if not (folder / "model").exists():
        random_model(folder / "model")
    study = Study(write_spec(folder, str(folder / "model")), folder, folder / "runs")
    if not (study.work / "results.json").exists():
        began = time.monotonic()
        run = study.start()
        try:
            run.finish()
        finally:
            run.clear()
        (folder / "seconds").write_text(f"{time.monotonic() - began:.1f}")
    return study
