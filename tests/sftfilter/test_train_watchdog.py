"""A worker that hangs ends, whatever it is at and whether or not it can say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sftfilter.train_watchdog import EXIT, blame

_HANGS = """
import sys, time
from pathlib import Path
from sftfilter import train_watchdog
train_watchdog.UNSTEADY_S = 1.0
with train_watchdog.Watchdog(Path(sys.argv[1]), 0, 0.4) as watchdog:
    {phase}
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("phase", "told"), [("watchdog.step(7)", "step 7"), ("watchdog.other('writing a')", "writing a"), ("", "its start")]
)
def test_what_hangs_is_named(tmp_path: Path, phase: str, told: str) -> None:
    assert _hang(tmp_path, phase) == EXIT
    said = blame(tmp_path, 2)
    assert said is not None and said.endswith(f"did not finish {told}, while 0 waited for it")


def test_a_folder_that_takes_no_word_does_not_keep_the_worker(tmp_path: Path) -> None:
    assert _hang(tmp_path / "gone", "watchdog.step(1)") == EXIT


def _hang(folder: Path, phase: str) -> int:
    script = [sys.executable, "-c", _HANGS.format(phase=phase), str(folder)]
    return subprocess.run(script, timeout=50, check=False, capture_output=True).returncode
