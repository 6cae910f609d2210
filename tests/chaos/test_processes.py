"""SIGKILL of a process in every stage of one run: it goes on by itself, to the undisturbed run's results."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.chaos.fault_table import FaultRow
from tests.chaos.study import Study, named, twice


def _kill(pid: int) -> float:
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


@pytest.mark.chaos(fault="SIGKILL of a process", during="rollouts, scores, training, evaluation")
def test_a_process_of_every_stage(studies: Callable[..., Study], judged: Callable[..., None]) -> None:
    study = studies()
    run = study.start()
    rows = []

    def answering() -> list[int]:
        return [p.pid for p in named(run.tree(), "MapBatches(Answerer)", "submit")]

    victim = run.until(answering)[0]
    struck = _kill(victim)
    run.until(lambda: set(answering()) - {victim})
    lost = "what it was answering, 4 prompts at most"
    rows.append(FaultRow("SIGKILL of an answering actor", "rollouts", lost, time.monotonic() - struck))

    lines = run.until(lambda: study.scored.read_text().splitlines()[1:] if study.scored.exists() else [])
    before = len(study.scored_rows())
    struck = _kill(int(lines[-1].split()[0]))
    # Two calls at most are under way; the third proves that there are actors again.
    run.until(lambda: len(study.scored_rows()) > before + 8)
    scoring = time.monotonic() - struck

    run.until(study.checkpoint)
    struck = _kill(study.workers()[-1]["pid"])
    reached = study.trained()
    at = run.until(study.resumed)
    run.until(lambda: study.trained_past(reached))
    lost = f"{max(0, reached[1] - at[-1])} steps of {study.steps}"
    rows.append(FaultRow("SIGKILL of a training worker", "training", lost, time.monotonic() - struck))

    run.until(lambda: study.made("answers"))
    made = study.made("answers", "loss")
    struck = _kill(named(run.tree(), "ServeReplica", "Students")[0].pid)
    run.until(lambda: study.made("answers", "loss") > made + 1)
    lost = "the answers under way, asked again"
    rows.append(FaultRow("SIGKILL of a Serve replica", "evaluation", lost, time.monotonic() - struck))

    run.finish()
    lost = f"{twice(study.scored_rows())} of {study.scorable} rows scored again"
    rows.insert(1, FaultRow("SIGKILL of a scoring actor", "scores", lost, scoring))
    judged(study, *rows)
