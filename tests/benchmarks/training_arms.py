"""What a run costs beside its steps, and what eight arms cost together, screened and not, against eight runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.benchmarks.row import Row, smaller
from tests.benchmarks.training_race import BATCH

ARMS = 8
TOP_LAYERS = 6
EPOCHS = 2
ROWS = 6 * BATCH
PATIENCE_S = 1800


def rows() -> Iterator[Row]:
    """Seconds beside the steps, then of eight arms."""
    plain = {"method": "lora", "rows": "short", "workers": 2, "threads": 1}
    short = plain | {"steps": 2}
    told = _ours([short | {"name": "warm-up"}, short | {"name": "arms", "arms": [0, 1, 2]}])
    arms = told["arms"]
    yield smaller("start to first step, warm cluster", arms["before_s"], 15, "s", 1.0, "LoRA, 2 workers, 135M")
    yield smaller("last step to result", arms["after_s"], 15, "s", 1.0, "export included")
    yield smaller("each further arm beside its steps", max(arms["between_s"]), 5, "s", 1.0, "export included")

    screened = plain | {"epochs": EPOCHS, "steps": ROWS * EPOCHS // BATCH, "count": ROWS, "top_layers": TOP_LAYERS}
    told = _ours(
        [
            {"name": "one", **screened, "arms": [0], "states_gib": 0},
            {"name": "eight", **screened, "arms": list(range(ARMS))},
        ]
    )
    apart, together = ARMS * told["one"]["whole_s"], told["eight"]["whole_s"]
    note = (
        f"adapters on the upper {TOP_LAYERS} of 30 layers, {ROWS} rows, {EPOCHS} epochs; alone: {told['one']['steps_s']:.0f} "
        f"of {told['one']['whole_s']:.0f} s are steps, together {told['eight']['steps_s']:.0f} of {together:.0f} s"
    )
    yield smaller(f"{ARMS} screened arms in one run, against {ARMS} runs", together, apart, "s", 2.0, note)
    steps = told["eight"]["steps_s"], ARMS * told["one"]["steps_s"]
    yield smaller(f"{ARMS} screened arms, their steps alone", *steps, "s", None, "what stored states save")


def _ours(cases: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.benchmarks.training_race", "ours", json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-400:])
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines()) if "name" in line}
