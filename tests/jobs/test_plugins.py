"""The example plugins and a module of the user's own, from the command line in another folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY

SFTFILTER = str(Path(sys.executable).parent / "sftfilter")
OWN = """
def length(texts, unit):
    return [len(text) / unit for text in texts]
"""


@pytest.mark.ray
def test_the_example_spec_and_a_module_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "own_scorer.py").write_text(OWN)
    own = "scorers.own={kind: plugin, target: 'own_scorer:length', options: {unit: 10}}"
    spec = REPOSITORY / "jobs" / "examples" / "plugins.yaml"
    command = [SFTFILTER, "run", str(spec), "--set", own, "--set", f"results={tmp_path / 'runs'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = pq.read_table(tmp_path / "runs" / "plugins" / "scores.parquet").to_pylist()
    record = json.loads((tmp_path / "runs" / "plugins" / "scores.json").read_text())
    assert len(rows) == record["counts"]["C"]["used"] == 116
    assert all(row["pii"] == 0 for row in rows)
    assert all(row["language"] is None or row["language"] <= 0.5 for row in rows)
    assert sum(row["language"] is not None for row in rows) > 58
    lengths = [row["own"] for row in rows]
    assert None not in lengths and 1 < min(lengths) < max(lengths) < 12
