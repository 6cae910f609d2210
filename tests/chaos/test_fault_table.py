"""What the fault table says is what was run: no row outlives its test, and one that did not pass says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.chaos.fault_table import BEGIN, END, FaultRow, clear, failed, keep, read, rewrite, table
from tests.conftest import REPOSITORY

ROW = FaultRow("SIGKILL", "scores", "4 rows", 1.4567, identical=True, ended_s=62.41, test="test_one")


def test_rows_of_tests_that_run_again_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    for row in (ROW, FaultRow("EIO", "training", "-", test="test_two"), FaultRow("old", "all", "-")):
        keep(row, file)
    clear({"test_one"}, file)
    assert [row.test for row in read(file)] == ["test_two"]


def test_a_failure_takes_the_place_of_what_was_measured_before(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    keep(ROW, file)
    failed("test_one", "SIGKILL", "scores", "**failed**: AssertionError: not within\n420 s | and so on", file)
    (row,) = read(file)
    assert row.identical is None and row.recover_s is None
    assert "| SIGKILL | scores | - | - | **failed**: AssertionError: not within 420 s / and so on |" in table([row])


def test_results_that_differ_stay(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    keep(FaultRow("SIGKILL", "scores", "4 rows", 1.0, identical=False, test="test_one"), file)
    failed("test_one", "SIGKILL", "scores", "**failed**: not as in the undisturbed run", file)
    assert "| 1 | **differ** |" in table(read(file))


def test_seconds_are_rounded_where_they_are_shown(tmp_path: Path) -> None:
    file, readme = tmp_path / "rows.json", tmp_path / "README.md"
    keep(ROW, file)
    kept = json.loads(file.read_text())["rows"][0]
    assert (kept["recover_s"], kept["ended_s"]) == (1.4567, 62.41)
    git = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    assert kept["commit"].startswith(subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip())
    readme.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    rewrite(readme, file)
    assert "| 4 rows | 1 | identical; the struck run ended after 62 s |" in readme.read_text()
    assert readme.read_text().startswith("above\n") and readme.read_text().endswith("below\n")


def test_a_chaos_test_that_fails_or_is_skipped_leaves_a_row(tmp_path: Path) -> None:
    """As pytest runs them, beside the same hooks."""
    hooks = "from tests.chaos.conftest import pytest_collection_finish, pytest_runtest_makereport\n"
    (tmp_path / "conftest.py").write_text(hooks)
    (tmp_path / "test_struck.py").write_text(
        "import pytest\n\n@pytest.mark.chaos(fault='A', during='scores')\ndef test_a(): assert 1 == 2, 'no progress'\n\n"
        "@pytest.mark.chaos(fault='B', during='all')\ndef test_b(): pytest.skip('this user may not mount')\n\n"
        "@pytest.mark.chaos(fault='C', during='all')\ndef test_c(): pass\n"
    )
    keep(FaultRow("C", "all", "-", test="test_c"), tmp_path / "rows.json")
    env = {"PYTHONPATH": str(REPOSITORY), "CHAOS_TABLE": str(tmp_path / "rows.json")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed, 1 skipped" in done.stdout, done.stdout
    told = {row.fault: row.note for row in read(tmp_path / "rows.json")}
    assert told == {"A": "**failed**: AssertionError: no progress", "B": "not run: this user may not mount"}
