"""`sftfilter report` finds a run's page, and says what to do where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A finished experiment, an inspection, and a run that has no page."""
    for name, page in (("done", "report"), ("looked", "inspect")):
        (tmp_path / name / page).mkdir(parents=True)
        (tmp_path / name / page / "index.html").write_text("page")
    (tmp_path / "running").mkdir()
    return tmp_path


@pytest.mark.parametrize("run", ["done", "looked"])
def test_a_page_is_found_by_name_and_by_folder(runs: Path, run: str) -> None:
    for given in (run, str(runs / run)):
        done = CliRunner().invoke(app, ["report", given, "--results", str(runs), "--no-open"])
        assert done.exit_code == 0, done.output
        page = Path(done.stdout.strip())
        assert page.parent.parent == runs / run and page.read_text() == "page"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["don"], 3, "did you mean 'done'"),
        (["running"], 3, "`sftfilter status running`"),
        ([], 2, "--host"),
        (["done", "--host"], 2, "leave RUN out"),
    ],
)
def test_what_cannot_be_shown_says_why(runs: Path, arguments: list[str], code: int, said: str) -> None:
    done = CliRunner().invoke(app, ["report", *arguments, "--results", str(runs), "--no-open"])
    assert done.exit_code == code
    assert said in done.stderr
