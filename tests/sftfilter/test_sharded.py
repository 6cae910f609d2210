"""A model that is trained in parts is never whole on a worker, and comes out as it would of a plain loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from jobs.run import worker_env
from sftfilter.chat_format import ChatFormat
from sftfilter.models import load_tokenizer
from tests.conftest import REPOSITORY
from tests.training_case import tiny_llama


def test_two_workers_hold_half_each_from_loading_to_export(tiny_chat_model: Path, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief."), layers=4)
    for worker in _two_workers([model, str(tmp_path)]):
        for method, told in worker.items():
            assert told["part"] < 0.52 * told["all"], method
            # What is looked at is gathered: a layer's weights, or one and its adapters.
            assert told["loading"] <= 1.1 * told["largest"] < 0.6 * told["all"], (method, told)
            assert told["exporting"] <= 1.1 * told["largest"], (method, told)
            assert told.get("furthest", 0.0) < 1e-5, method


def _two_workers(arguments: list[str]) -> list[dict[str, dict[str, float]]]:
    # DeepSpeed looks for ninja, which lies beside our interpreter.
    place = worker_env() | {
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.sharded_case", str(rank), *arguments],
            env=os.environ | place | {"LOCAL_RANK": str(rank)},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=600) for worker in workers]
    assert not any(worker.returncode for worker in workers), "\n".join(errors[-3000:] for _, errors in said)
    return json.loads(said[0][0].splitlines()[-1])
