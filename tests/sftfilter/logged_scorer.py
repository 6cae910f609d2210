"""A scorer that writes down what it is asked to score, and a driver to kill: `python -m tests.sftfilter.logged_scorer`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import MachineError, SpecError
from sftfilter.schema import ROLLOUTS
from sftfilter.scorers.contract import Scored, ScorerSettings
from sftfilter.scoring import ScoringPool, score_rollouts

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 20
POOL = ScoringPool(batch=BATCH)


class Logged(ScorerSettings):
    """The length of the completion. Each call is a line in the log: the worker's process id and the ids of the rows."""

    kind: Literal["logged"] = "logged"
    log: str
    delay: float = 0.1
    deadly: str | None = None
    unusable: bool = False
    salt: int = 0

    aside: ClassVar[frozenset[str]] = frozenset({"log", "delay", "deadly", "unusable"})

    def load(self, folder: Path, device: str) -> LoggedScorer:
        if self.unusable:
            raise SpecError("no such rubric")
        return LoggedScorer(self)

    def calls(self) -> list[tuple[int, list[str]]]:
        """Process id and row ids of each call so far."""
        lines = Path(self.log).read_text().splitlines() if Path(self.log).exists() else []
        return [(int(line.split()[0]), line.split()[1:]) for line in lines]

    def asked(self) -> list[str]:
        """Ids in the order in which they were scored, those scored twice twice."""
        return [i for _, ids in self.calls() for i in ids]


class Prepared(Logged):
    """One whose preparation is killed so many times."""

    deaths: int

    aside: ClassVar[frozenset[str]] = Logged.aside | {"deaths"}

    def prepare(self, folder: Path, device: str) -> None:
        with open(f"{self.log}.prepared", "a") as log:
            log.write(".")
        if Path(log.name).stat().st_size <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "prepared").write_text(device)


class LoggedScorer:
    def __init__(self, settings: Logged) -> None:
        self.settings = settings

    def score(self, batch: pa.Table) -> Scored:
        import pyarrow.compute as pc

        ids = batch["rollout_id"].to_pylist()
        handle = os.open(self.settings.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, " ".join([str(os.getpid()), *ids]).encode() + b"\n")
        os.close(handle)
        if self.settings.deadly in ids:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.settings.delay)
        return Scored(pc.utf8_length(batch["completion"]))  # pyright: ignore[reportAttributeAccessIssue]


def rollouts(store: Store, count: int) -> Artifact:
    """A table of rollouts r0, r1, ... of many row groups."""

    def make(folder: Path) -> dict[str, Any]:
        rows = [{"rollout_id": f"r{i}", "completion": "x" * (i % 97)} for i in range(count)]
        write_table(folder, "rollouts", pa.Table.from_pylist(rows, ROLLOUTS))
        return {}

    return store.build("rollouts", version=1, settings=count, inputs={}, make=make)


def score(root: Path, scorer: Logged, count: int, name: str = "logged") -> list[dict[str, Any]]:
    """The rows of the table `scores`."""
    store = Store(root)
    made = score_rollouts(name, scorer, rollouts(store, count), store=store, pool=POOL)
    return made.table("scores").to_pylist()


def fill(folder: Path, free: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast = folder / "ballast"
    with open(ballast, "wb") as sink:
        disk = os.statvfs(folder)
        sink.write(bytes(disk.f_bavail * disk.f_frsize - free))
    return ballast


def main(root: str, log: str, count: str, free: str) -> Iterator[str]:
    """Score; with `free` bytes left on the disk first, then with all of it."""
    from cluster.local import local_ray
    from jobs.run import worker_env

    scorer = Logged(log=log)
    with local_ray(worker_env(), cpus=2):
        if int(free):
            rollouts(Store(root), int(count))
            ballast = fill(Path(root), int(free))
            try:
                score(Path(root), scorer, int(count))
            except MachineError as error:
                yield f"full: {error}"
            yield f"kept: {len(list(Path(root).glob('scored/*/*.parquet')))}"
            ballast.unlink()
        rows = score(Path(root), scorer, int(count))
        yield f"rows: {len(rows)}"


if __name__ == "__main__":
    for line in main(*sys.argv[1:]):
        print(line, flush=True)
