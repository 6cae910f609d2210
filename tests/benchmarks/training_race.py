"""Our trainer on the benchmark's rows: `python -m tests.benchmarks.training_race ours CASES` or `gemm THREADS`.

A process with a Ray of its own. `ours` trains every case, one worker group each, and prints a line of JSON for it.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import read_lines

SYSTEM = "Be brief."
BATCH = 8
WARM = 4
"""Steps that are not timed: the first ones compile, and what Ray starts beside a worker group is still being loaded."""
ANSWERS = 16
"""Of the quickstart, that make up a long one."""

SHAPES = ((576, 576), (576, 192), (576, 1536), (1536, 576))
"""Inputs and outputs of the 135M model's linear layers."""


def rows(kind: str, count: int) -> list[dict[str, Any]]:
    """Chat rows: the quickstart's (`short`, about 50 tokens), or several answers in one (`long`, about 300)."""
    pairs = [row for name in ("doubt", "accept") for row in read_lines(f"teacher_{name}.jsonl", 400)]
    if kind == "long":
        joined = []
        for n in range(count):
            some = [pairs[(ANSWERS * n + k) % len(pairs)] for k in range(ANSWERS)]
            joined.append({"prompt": some[0]["prompt"], "completion": " ".join(row["completion"] for row in some)})
        pairs = joined
    made = [pairs[n % len(pairs)] for n in range(count)]
    return [
        {
            "row_id": f"r{n:05}",
            "messages": [{"role": "user", "content": row["prompt"]}],
            "completion": row["completion"],
        }
        for n, row in enumerate(made)
    ]


def write_for_peers(path: Path, given: Sequence[Mapping[str, Any]]) -> Path:
    """The same rows as TRL reads them, with the system turn that ours puts before them."""
    system = {"role": "system", "content": SYSTEM}
    lines = [
        {
            "prompt": [system, *row["messages"]],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in given
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def train(case: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One `train_all`: seconds of the timed steps, where they went, and what lies before, between and after the steps.

    `case`: name, method, rows, workers, threads, steps; and perhaps arms, top_layers, epochs, states_gib.
    """
    import pyarrow as pa

    from sftfilter.artifacts import Store
    from sftfilter.chat_format import ChatFormat
    from sftfilter.models import BUILTIN, load_tokenizer, resolve, weights_hash
    from sftfilter.training import TrainingRun, train_all
    from sftfilter.training_plan import make_plan
    from sftfilter.training_settings import Execution, TrainingSettings

    base = resolve(BUILTIN)
    chat = ChatFormat(load_tokenizer(base), SYSTEM)
    method = {"kind": case["method"]} | ({"top_layers": case["top_layers"]} if "top_layers" in case else {})
    budget = {"epochs": case["epochs"]} if "epochs" in case else {"steps": case["steps"]}
    settings = TrainingSettings.model_validate({"method": method, "batch": BATCH} | budget)
    runs: list[TrainingRun] = []
    for seed in case.get("arms", [0]):
        given = rows(case["rows"], case.get("count", BATCH * case["steps"]))
        plan = make_plan([(r["row_id"], r["row_id"]) for r in given], [r["row_id"] for r in given], settings, seed)
        runs.append(TrainingRun(f"arm{seed}", seed, pa.Table.from_pylist(given), plan, settings, {}))
    events: list[Mapping[str, Any]] = []
    began = time.time()
    made = train_all(
        runs,
        store=Store(folder / "store"),
        base=base,
        base_hash=weights_hash(base),
        system_prompt=SYSTEM,
        format_hash=chat.hash,
        execution=Execution(
            workers=case["workers"],
            cpus_per_worker=case["threads"],
            zero_stage=case.get("zero_stage", 2),
            states_gib=case.get("states_gib", 8),
        ),
        storage=folder,
        on_event=events.append,
    )
    ended = time.time()
    return _told([event for event in events if "step" in event], began, ended) | {
        "screened": all(artifact.meta["screened"] for artifact in made.values())
    }


def _told(steps: Sequence[Mapping[str, Any]], began: float, ended: float) -> dict[str, Any]:
    first, last = steps[0], steps[-1]
    timed = [event for event in steps if event["arm"] == first["arm"]]
    after, seconds = timed, sum(event["seconds"] for event in timed)
    if len(timed) > WARM:
        after, seconds = timed[WARM:], timed[-1]["at"] - timed[WARM - 1]["at"]
    between = [
        later["at"] - later["seconds"] - earlier["at"]
        for earlier, later in itertools.pairwise(steps)
        if earlier["arm"] != later["arm"]
    ]
    parts = {what: sum(e[f"{what}_s"] for e in after) / len(after) for what in ("forward", "backward", "optimizer")}
    parts["wait"] = sum(e["data_wait_s"] for e in after) / len(after)
    return {
        "rows": BATCH * len(after),
        "seconds": seconds,
        "step_s": seconds / len(after),
        "parts_s": parts,
        "before_s": first["at"] - first["seconds"] - began,
        "between_s": between,
        "after_s": ended - last["at"],
        "steps_s": sum(event["seconds"] for event in steps),
        "whole_s": ended - began,
    }


def gemm(threads: int) -> dict[str, float]:
    """FLOP/s of products of the model's shapes with 512 tokens, in either format."""
    import torch

    torch.set_num_threads(threads)
    found: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        seconds = flops = 0.0
        for inputs, outputs in SHAPES:
            x, w = torch.randn(512, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
            torch.nn.functional.linear(x, w)
            began = time.perf_counter()
            for _ in range(10):
                torch.nn.functional.linear(x, w)
            seconds += time.perf_counter() - began
            flops += 10 * 2 * 512 * inputs * outputs
        found[str(dtype).removeprefix("torch.")] = flops / seconds
    return found


def main(mode: str, argument: str) -> None:
    """See the module."""
    if mode == "gemm":
        print(json.dumps(gemm(int(argument))))
        return
    from cluster.local import local_ray
    from jobs.run import worker_env

    with local_ray(worker_env(), cpus=2), tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for number, case in enumerate(json.loads(argument)):
            told = train(case, Path(folder) / str(number))
            print(json.dumps({"name": case["name"]} | told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
