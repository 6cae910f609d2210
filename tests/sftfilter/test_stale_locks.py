"""A lock that a killed process left is removed, one that may be in use is not."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sftfilter.stale_locks import STALE_S, clear_stale_locks


def test_only_old_locks_go(tmp_path: Path) -> None:
    for name, age in (("old", STALE_S + 60), ("new", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        made = time.time() - age
        os.utime(tmp_path / name / "lock", (made, made))
        (tmp_path / name / "built.so").touch()
    (line,) = clear_stale_locks(tmp_path)
    assert "16 minutes ago" in line and str(tmp_path / "old" / "lock") in line
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")) == [
        "new/built.so",
        "new/lock",
        "old/built.so",
    ]
    assert clear_stale_locks(tmp_path) == [] == clear_stale_locks(tmp_path / "none")
