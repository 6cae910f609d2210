"""One undisturbed run, made once, against which every struck one is compared; and a row for whatever came of a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.fault_table import FaultRow, clear, failed, keep
from tests.chaos.study import Study, differences, outcome, undisturbed_run

KEPT = "CHAOS_REFERENCE"
"""A folder to make the undisturbed run in, and to find it again: for those who build a row."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Forget what tests that are about to run came to before."""
    if not session.config.option.collectonly:
        clear({item.name for item in session.items if item.get_closest_marker("chaos")})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A row that says so, for a test that failed or was skipped."""
    report = yield
    marker = item.get_closest_marker("chaos")
    if marker and call.excinfo and not report.passed:
        said = call.excinfo.exconly()
        why = f"not run: {call.excinfo.value}" if report.skipped else f"**failed**: {said.splitlines()[0]}"
        failed(item.name, marker.kwargs["fault"], marker.kwargs["during"], why)
    return report


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The undisturbed run."""
    folder = Path(os.environ[KEPT]) if KEPT in os.environ else tmp_path_factory.mktemp("reference")
    return undisturbed_run(folder)


@pytest.fixture(scope="session")
def undisturbed(reference: Study) -> dict[str, Any]:
    """What it came to."""
    return outcome(reference)


@pytest.fixture
def studies(reference: Study, tmp_path: Path) -> Iterator[Callable[..., Study]]:
    """Makes studies of the same spec; whatever their runs started is ended."""
    made: list[Study] = []

    def make(stage: str | None = None, **changes: Any) -> Study:
        folder = tmp_path / f"study-{len(made)}"
        folder.mkdir()
        study = Study(reference.spec, folder, changes.pop("root", folder / "runs"), **changes)
        if stage:
            study.take_from(reference, stage)
        made.append(study)
        return study

    yield make
    for study in made:
        for run in study.runs:
            run.clear()


@pytest.fixture
def judged(undisturbed: dict[str, Any], request: pytest.FixtureRequest) -> Callable[..., None]:
    """Writes rows of the table, with whether the results are the undisturbed run's."""

    def judge(study: Study, *rows: FaultRow) -> None:
        found = differences(undisturbed, outcome(study))
        for row in rows:
            keep(replace(row, identical=not found, test=request.node.name))
        assert not found, f"not as in the undisturbed run: {found}"

    return judge
