"""SIGKILL of the process that started it all, once in every stage: the same command goes on, at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from jobs.run_lock import HOLDER
from sftfilter.errors import MachineError
from tests.chaos.fault_table import FaultRow
from tests.chaos.study import Run, Study, named, twice

FAULT = "SIGKILL of the driver, rerun at once"


def _again(study: Study, run: Run) -> tuple[Run, float]:
    """Strike and start anew."""
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    struck = time.monotonic()
    return study.start(), struck


def _second(study: Study, first: Run) -> FaultRow:
    """Start another run of the same spec; it is refused, and leaves no trace in the record."""
    first.until(study.events)
    began = time.monotonic()
    second = study.start()
    assert second.end() == MachineError.exit_code
    took = time.monotonic() - began
    assert f"process {first.process.pid} on" in second.said() and "sftfilter stop struck" in second.said()
    assert {event["pid"] for event in study.events() if event["event"] == "run"} == {first.process.pid}
    return FaultRow("two runs of one spec at once", "rollouts", "nothing", note="the second was refused", ended_s=took)


@pytest.mark.chaos(fault=FAULT, during="rollouts, scores, training, evaluation")
def test_a_driver_in_every_stage(studies: Callable[..., Study], judged: Callable[..., None]) -> None:
    """And a second run while the first one works, which has to stay out."""
    study = studies()
    run = study.start()
    rows = [_second(study, run)]

    run.until(lambda: named(run.tree(), "MapBatches(Answerer)", "submit"))
    run, struck = _again(study, run)
    run.until(lambda: named(run.tree(), "MapBatches(Answerer)", "submit"))
    lost = "the teacher's answers so far, 24 at most"
    rows.append(FaultRow(FAULT, "rollouts", lost, time.monotonic() - struck))

    run.until(lambda: study.scored.exists() and study.scored.read_text().splitlines()[3:])
    old = {line.split()[0] for line in study.scored.read_text().splitlines()}
    run, struck = _again(study, run)
    run.until(lambda: {line.split()[0] for line in study.scored.read_text().splitlines()} - old)
    scoring = time.monotonic() - struck

    run.until(study.checkpoint)
    reached = study.trained()
    run, struck = _again(study, run)
    at = run.until(study.resumed)
    run.until(lambda: study.trained_past(reached))
    lost = f"{max(0, reached[1] - at[-1])} steps of {study.steps}"
    rows.append(FaultRow(FAULT, "training", lost, time.monotonic() - struck))

    run.until(lambda: study.made("answers"))
    made = study.made("answers", "loss")
    run, struck = _again(study, run)
    run.until(lambda: study.made("answers", "loss") > made)
    lost = "answers of the model that was asked, 18 at most"
    rows.append(FaultRow(FAULT, "evaluation", lost, time.monotonic() - struck))

    run.finish()
    lost = f"{twice(study.scored_rows())} of {study.scorable} rows scored again"
    rows.insert(2, FaultRow(FAULT, "scores", lost, scoring))
    assert not (study.work / HOLDER).exists()
    judged(study, *rows)
