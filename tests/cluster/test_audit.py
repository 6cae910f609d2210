"""The audit of dependencies, with a program in the place of pip-audit: what it says when the service answers for some only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Answers for as many packages as $KNOWN says and skips the others; of more than one, with $FAILS set, for none at all.
PIP_AUDIT = """
import json, os, sys
lines = open(sys.argv[-1]).read().split()
if len(lines) > 1 and "FAILS" in os.environ:
    sys.exit("ConnectionError")
known = int(os.environ["KNOWN"])
vulns = [{"id": "CVE-1", "fix_versions": ["9"]}] if "VULNERABLE" in os.environ else []
found = []
for at, line in enumerate(lines):
    name, _, version = line.partition("==")
    answer = {"version": version, "vulns": vulns if at == 1 else []} if at < known else {"skip_reason": "not found"}
    found.append({"name": name.replace("-", "_")} | answer)
print(json.dumps({"dependencies": found}))
"""


def _audit(folder: Path, *flags: str, known: int = 10_000, **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "pip_audit.py").write_text(PIP_AUDIT)
    given = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}", "KNOWN": str(known)} | env
    command = [sys.executable, "-m", "cluster.audit", *flags]
    return subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True, check=False)


def test_all_are_audited(tmp_path: Path) -> None:
    done = _audit(tmp_path, "--required")
    assert done.returncode == 0 and "not audited" not in done.stdout, done.stdout + done.stderr
    found = _audit(tmp_path, VULNERABLE="1")
    assert found.returncode == 1 and "CVE-1 (fixed in 9)" in found.stdout


@pytest.mark.parametrize("flags", [[], ["--required"]])
def test_a_service_that_answers_the_probe_only(tmp_path: Path, flags: list[str]) -> None:
    done = _audit(tmp_path, *flags, FAILS="1")
    assert done.returncode == len(flags) and "none is audited" in done.stdout


@pytest.mark.parametrize("flags", [[], ["--required"]])
def test_packages_that_the_service_skips_are_named(tmp_path: Path, flags: list[str]) -> None:
    done = _audit(tmp_path, *flags, known=5)
    assert done.returncode == len(flags)
    assert "dependencies: 5 of" in done.stdout and "not audited, since" in done.stdout
