"""`sftfilter new`: specs for one's own data, valid at once, by flags and by asking."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.new_spec import KINDS
from jobs.spec import load_spec
from tests.conftest import read_lines, write_lines


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("teacher_doubt.jsonl", "teacher_accept.jsonl", "heldout.jsonl"):
        write_lines(tmp_path / name, read_lines(name, 3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _new(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["new", *arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize("kind", KINDS)
def test_by_flags(folder: Path, kind: str) -> None:
    teachers = ["--teacher", "T=teacher_doubt.jsonl", "--teacher", "C=teacher_accept.jsonl"]
    asked = ["--prompts", "teacher_doubt.jsonl", "--heldout", "heldout.jsonl"]
    code, said = _new("mine.yaml", "--kind", kind, *teachers, *asked, "--term", r"it's \bnot 2026")
    assert code == 0, said
    first = read_lines("teacher_doubt.jsonl", 1)[0]
    assert f'T: "{first["prompt"][:40]}' in said
    spec = load_spec(folder / "mine.yaml")
    assert (spec.model_dump()["kind"], spec.name) == (kind, "mine")
    text = (folder / "mine.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema=.sftfilter/{kind}.schema.json")
    assert (folder / ".sftfilter" / f"{kind}.schema.json").is_file()
    assert kind == "train" or r"it''s \bnot 2026" in text
    code, said = _new("mine.yaml", *teachers)
    assert code == 2 and "--force" in said


def test_by_asking_at_a_terminal(folder: Path) -> None:
    here, there = pty.openpty()
    command = [sys.executable, "-m", "jobs.cli", "new", "asked.yaml"]
    with subprocess.Popen(command, stdin=there, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        os.close(there)
        os.write(here, b"\nteacher_doubt.jsonl\nteacher_accept.jsonl\n\n")
        said, _ = child.communicate(timeout=60)
    os.close(here)
    assert child.returncode == 0, said
    assert "swapped" in (folder / "asked.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no terminal to ask at"),
        (["--teacher", "teacher_doubt.jsonl"], "expected NAME=PATH"),
        (["--teacher", "T=none.jsonl"], "file not found"),
        (["--teacher", "T=odd.jsonl"], "Name your columns in `columns`"),
        (["--teacher", "../T=teacher_doubt.jsonl"], "is not a name"),
        (["--teacher", "T=teacher_doubt.jsonl", "--kind", "experiment"], "at least 2"),
        (["--teacher", "T=teacher_doubt.jsonl", "--kind", "sweeep"], "score, decide, train, experiment"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "odd.jsonl").write_text('{"q": "a", "a": "b"}\n')
    code, said = _new("mine.yaml", *arguments)
    assert code != 0 and message in said, said
    assert not list(folder.glob("*.yaml")) and not list(folder.glob(".*.yaml"))
