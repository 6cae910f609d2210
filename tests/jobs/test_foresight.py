"""What `validate` sees without running: files that are not there, and columns that they do not have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.foresight import foresee, refuse_unusable
from jobs.spec import load_spec
from sftfilter.errors import DataError
from tests.conftest import REPOSITORY, write_lines

SPEC = """\
kind: decide
name: x
rollouts:
  T:
    path: t.jsonl
    ratings: [keep]
  C:
    path: c.csv
    ratings: [keep]
scorers:
  kept: {kind: column, rating: keep}
  probe:
    kind: probe
    labelled: labelled.jsonl
selectors:
  listed: {kind: ids, file: ids.txt}
decisions:
  a: {teacher: T}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A spec with all that it names beside it."""
    write_lines(tmp_path / "t.jsonl", [{"prompt": f"q{n}", "completion": "a", "keep": n % 2} for n in range(5)])
    (tmp_path / "c.csv").write_text("prompt,completion,keep\nq0,b,1\n")
    write_lines(tmp_path / "labelled.jsonl", [{"prompt": "q", "completion": "a", "label": 1}])
    (tmp_path / "questions.csv").write_text("prompt\nq\n")
    (tmp_path / "ids.txt").touch()
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


def _seen(path: Path, old: str = "", new: str = "") -> tuple[list[str], list[str]]:
    path.write_text(SPEC.replace(old, new) if old else SPEC)
    return foresee(str(path), load_spec(path))


def test_a_spec_with_everything_there_is_not_complained_of(path: Path) -> None:
    assert _seen(path) == ([], [])
    assert _seen(path, "t.jsonl", "s3://bucket/t.jsonl") == ([], [])
    assert _seen(path, "t.jsonl", "owner/name\n    format: dataset") == ([], [])
    assert _seen(path, "t.jsonl", "'*.jsonl'\n    where: {keep: 1}") == ([], [])


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("t.jsonl", "tt.jsonl", 5, "rollouts.T.path: file not found: {}/tt.jsonl"),
        ("t.jsonl", "[t.jsonl, tt.jsonl]", 5, "rollouts.T.path.1: file not found: {}/tt.jsonl"),
        ("t.jsonl", "'*.parquet'", 5, "rollouts.T.path: no file matches {}/*.parquet"),
        ("labelled: l", "labelled: L", 14, "scorers.probe.labelled: not found: {}/Labelled.jsonl"),
        (
            "labelled.jsonl",
            "questions.csv",
            14,
            "scorers.probe.labelled: {}/questions.csv: shape 'prompt' needs `compl",
        ),
        ("ids.txt", "id.txt", 16, "selectors.listed.file: not found: {}/id.txt"),
        ("rating: keep", "rating: kept", 11, "scorers.kept.rating: teacher 'T' lists no 'kept' in its `ratings`, did"),
        (
            "csv\n    ratings: [keep]",
            "csv",
            10,
            "scorers.kept.rating: teacher 'C' lists no 'keep' in its `ratings`; it",
        ),
        ("csv\n    ratings: [keep]", "csv\n    ratings: [keep, kep]", 7, "rollouts.C: {}/c.csv: no column 'kep', did"),
        ("t.jsonl", "t.jsonl\n    columns: {id: key}", 4, "rollouts.T: {}/t.jsonl: `columns` names 'key' as id"),
        ("t.jsonl", "labelled.xyz", 5, "rollouts.T.path: file not found"),
    ],
)
def test_what_no_run_can_do_without_is_named_with_its_line(
    path: Path, old: str, new: str, line: int, message: str
) -> None:
    stops, notes = _seen(path, old, new)
    assert notes == []
    assert stops[0].startswith(f"{path}:{line}: {message.format(path.parent)}"), stops


def test_what_may_be_there_after_all_is_a_note(path: Path) -> None:
    stops, (note,) = _seen(path, "t.jsonl\n    ratings: [keep]", "t.jsonl\n    ratings: [keep, rare]")
    assert not stops and note == f"{path}:6: rollouts.T.ratings: none of the first 100 rows has a column 'rare'"
    stops, (note,) = _seen(path, "t.jsonl", "/on-the-cluster/t.jsonl")
    assert not stops and note.startswith(f"{path}:5: rollouts.T.path: file not found: /on-the-cluster/t.jsonl")
    write_lines(path.parent / "labelled.jsonl", [{"prompt": "q", "completion": "a"}])
    stops, (note,) = _seen(path)
    assert not stops and note == f"{path}:14: scorers.probe.labelled: none of the first 100 rows has a column 'label'"


def test_the_command_ends_with_an_error_and_imports_nothing_heavy(path: Path) -> None:
    code = (
        "import sys; from jobs.cli import app\n"
        f"try: app(['validate', {str(path)!r}])\n"
        "finally: print([m for m in ('torch', 'ray', 'transformers', 'polars', 'datasets') if m in sys.modules])"
    )

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)

    done = run()
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    (path.parent / "ids.txt").unlink()
    with pytest.raises(DataError, match=r"selectors\.listed\.file: not found"):
        refuse_unusable(str(path), load_spec(path))  # nor does a run begin
    done = run()
    assert done.returncode == 3 and f"error: {path}:16: selectors.listed.file: not found" in done.stderr
