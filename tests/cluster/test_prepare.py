"""Set-up on a machine where something hangs or is missing ends with what to do."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from cluster import prepare
from cluster.prepare import build_extensions
from sftfilter.errors import MachineError

COMPILE = "import subprocess; subprocess.run(['g++'])"
"""What the build comes to, without the seconds that importing DeepSpeed takes."""


def test_a_compiler_that_hangs_is_ended_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "g++"
    started = tmp_path / "started"
    compiler.write_text(f"#!/bin/sh\necho $$ > {started}\nexec sleep 600\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(prepare, "_BUILD", COMPILE)
    folder = tmp_path / "extensions"
    with pytest.raises(MachineError, match=rf"not built within 5 s; remove {re.escape(str(folder))} and try again"):
        build_extensions(folder, limit_s=5)
    pid = int(started.read_text())
    time.sleep(0.5)
    status = Path(f"/proc/{pid}/status")
    assert not status.exists() or "zombie" in status.read_text(), "the compiler was ended with the build"


def test_a_build_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_BUILD", "raise SystemExit(3)")
    with pytest.raises(MachineError, match=r"could not be built \(see above\)"):
        build_extensions(tmp_path)


def test_no_compiler_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="apt install g\\+\\+"):
        build_extensions(tmp_path)
