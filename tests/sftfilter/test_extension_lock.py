"""A process that was killed while it built DeepSpeed's extension does not hang the next training."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sftfilter.extension_lock import STALE_S, await_builds, clear_stale_locks, extensions_dir

HOLD = "import sys, time; from torch.utils.file_baton import FileBaton\nFileBaton(sys.argv[1]).try_acquire(); print('held', flush=True); time.sleep(60)"


def test_a_killed_builders_lock_is_broken_and_a_living_ones_is_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    assert await_builds(tmp_path) == []
    builder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "held\n"
    broken: list[Path] = []
    waiting = threading.Thread(target=lambda: broken.extend(await_builds(tmp_path, 0.1)), daemon=True)
    waiting.start()
    time.sleep(1)
    assert lock.exists()
    assert waiting.is_alive(), "a living builder is waited for"
    builder.kill()
    builder.wait()
    waiting.join(20)
    assert broken == [lock]
    assert not lock.exists()


def test_every_environment_compiles_into_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("SFTFILTER_CACHE", str(tmp_path))
    here = extensions_dir()
    assert here == extensions_dir() and here.parent == tmp_path / "torch_extensions"
    monkeypatch.setattr(sys, "prefix", "/elsewhere/.venv")
    assert extensions_dir() != here and extensions_dir().parent == here.parent
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/given")
    assert extensions_dir() == Path("/given")


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
