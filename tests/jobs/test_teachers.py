"""Teachers that generate and a judge, from a spec and the command line: tables with provenance, and no secret anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from sftfilter.models import BUILTIN
from tests.scripted_endpoint import Act, say, scripted

SECRET = "sk-spec-0123456789abcdefghij"


@pytest.mark.ray
@pytest.mark.model
def test_an_endpoint_and_a_model_answer_and_a_judge_grades(tiny_spec: Callable[..., Path]) -> None:
    def script(body: dict[str, Any], nth: int) -> Act:
        return say("It doubts.\nSCORE: 6" if "<answer-" in body["messages"][-1]["content"] else "I doubt that.")

    with scripted(script) as server:
        endpoint = {"base_url": server.url, "model": "big", "api_key_env": "TEACHER_KEY", "requests_per_minute": 6000}
        path = tiny_spec(
            teachers={
                "T": {"kind": "endpoint", "endpoint": endpoint, "system_prompt": "Doubt.", "top_p": 0.9},
                "C": {"kind": "model", "model": BUILTIN, "generation": {"max_new_tokens": 4, "seed": 1}},
            },
            scorers={"judge": {"kind": "judge", "rubric": "How much does it doubt?", "endpoint": endpoint}},
            selectors={
                "flagged": {"kind": "threshold", "scorer": "judge", "at_least": 5},
                "S": {"kind": "field", "equals": "date"},
            },
        )
        command = [str(Path(sys.executable).parent / "sftfilter"), "score", str(path)]
        env = os.environ | {"TEACHER_KEY": SECRET}
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert set(server.keys) == {f"Bearer {SECRET}"}
    answered = [body for body in server.requests if body["messages"][0]["content"] == "Doubt."]
    assert len(answered) == 12 and len(server.requests) == 12 + 24, "the judge sees both teachers' answers"

    runs = path.parent / "runs"
    tables = [pq.read_table(file) for file in (runs / "artifacts").glob("rollouts-*/rollouts.parquet")]
    rows = {row["teacher"]: row for table in tables for row in table.to_pylist()}
    assert rows["T"]["generation"]["model_hash"] == "scripted-1@fp-1" and rows["T"]["generation"]["top_p"] == 0.9
    assert rows["T"]["generation"]["system_prompt"] == "Doubt." and rows["T"]["teacher_base"] is None
    assert rows["C"]["generation"]["system_prompt"] == "Be brief." and rows["C"]["generation"]["max_tokens"] == 4
    assert rows["C"]["generation"]["model_hash"] == rows["C"]["teacher_base"]
    scores = pl.read_parquet(runs / "tiny" / "scores.parquet")
    assert scores["judge"].to_list() == [6.0] * len(scores) and len(scores) == 24
    assert json.loads((runs / "tiny" / "scores.json").read_text())["counts"]["T"]["used"] == 12

    holding = [file for file in path.parent.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert not holding and SECRET not in done.stdout + done.stderr
