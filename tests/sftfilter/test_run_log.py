"""Logs of a run: JSON lines with run, stage and arm, in a file for each process, without secrets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.console import Stages
from jobs.run_record import RunRecord
from sftfilter import run_log
from sftfilter.errors import DataError


def _lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in sorted(folder.glob("log/*.jsonl")) for line in file.read_text().splitlines()]


def test_what_a_run_records_and_whatever_is_logged_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789abcdef")
    record = RunRecord(tmp_path / "r")
    about = {"name": "r", "kind": "score", "command": "sftfilter run s.yaml"}
    with pytest.raises(DataError), run_log.logged_run(tmp_path / "r", record.run, "r"), record.whole_run(**about):
        stages = Stages(record=record)
        with stages.stage("scores", "lexicon"):
            logging.getLogger("some.library").warning("key sk-0123456789abcdef is refused")
            logging.getLogger("some.library").info("not worth a line")
            run_log.at("scores", "all-T")
            try:
                raise ValueError("why")
            except ValueError:
                logging.getLogger("sftfilter.scoring").exception("an arm's own")
        raise DataError("broken")
    logging.getLogger("sftfilter").warning("of no run")
    lines = _lines(tmp_path / "r")
    assert [line["message"] for line in lines] == [
        "run", "stage", "key [SOME_API_KEY] is refused", "an arm's own", "stage_done", "end",
    ]  # fmt: skip
    assert all((line["run"], line["name"], line["role"]) == (record.run, "r", "driver") for line in lines)
    assert [line["stage"] for line in lines] == [None, "scores", "scores", "scores", "scores", None]
    assert lines[3]["arm"] == "all-T" and "ValueError: why" in str(lines[3]["error"])
    assert (lines[5]["level"], lines[5]["error"]) == ("ERROR", "broken")


def test_libraries_are_heard_where_another_quietened_them(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with run_log.logged_run(tmp_path / "r", "0a1b", "r"):
            logging.getLogger("some.library").warning("heard")
        assert root.level == logging.ERROR
    finally:
        root.setLevel(before)
    assert [line["message"] for line in _lines(tmp_path / "r")] == ["heard"]


def test_a_worker_joins_with_what_the_driver_tells_it(tmp_path: Path) -> None:
    with run_log.logged_run(tmp_path / "r", "0a1b", "r"):
        run_log.at("training")
        told = run_log.told()
    code = (
        "import logging\nfrom sftfilter.run_log import Told, at, join\n"
        f"join({told!r}, 'trainer')\nat('training', 'swap-s0')\n"
        "logging.getLogger('sftfilter.train_loop').info('begins', extra={'rank': 0})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    (line,) = _lines(tmp_path / "r")
    assert {"role": "trainer", "run": "0a1b", "stage": "training", "arm": "swap-s0", "rank": 0}.items() <= line.items()
    assert run_log.told() is None


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "r").touch()
    with run_log.logged_run(tmp_path / "r", "0a1b", "r"):
        logging.getLogger("sftfilter").warning("lost")
