"""Training beside TRL's SFTTrainer: rows/s on the same rows, model, batch and threads, and how near both come to the
rate of the CPU's matrix products.

TRL runs at the best of several settings, which are tried first: padded batches grouped by length or padding-free,
`sdpa` or `eager` attention, float32 or bfloat16 autocast; without gradient checkpointing, with torch's fused AdamW.
Ours runs as shipped.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.row import Row, faster, missing
from tests.benchmarks.training_race import BATCH, WARM, write_for_peers
from tests.benchmarks.training_race import rows as rows_of

PEERS = Path(".cache/bench-venv/bin/python")
PEER = Path(__file__).parent / "peers" / "trl_sft.py"
PATIENCE_S = 900
LAYERS, HEAD = 106_200_000, 28_311_552
"""Weights of the 135M model's layers and of its vocabulary projection."""

CASES: tuple[tuple[str, str, int, int, float], ...] = (
    # method, rows, workers, timed steps, goal
    ("lora", "short", 1, 6, 1.5),
    ("full", "short", 1, 5, 1.3),
    ("lora", "short", 2, 6, 1.0),
    ("full", "short", 2, 5, 1.0),
    ("lora", "long", 1, 2, 1.0),
)


def rows() -> Iterator[Row]:
    """A row for each case, then what share of the GEMM rate either reaches."""
    rates = json.loads(_run([sys.executable, "-m", "tests.benchmarks.training_race", "gemm", "2"]))
    cases = [_case(*case) for case in CASES]
    ours = _ours(cases)
    with tempfile.TemporaryDirectory() as folder:
        best = _best_peer(Path(folder)) if PEERS.exists() else None
        for case, goal in zip(cases, (case[-1] for case in CASES), strict=True):
            told = ours[case["name"]]
            rate = told["rows"] / told["seconds"]
            name = f"{case['name']}, against TRL"
            if best is None:
                yield missing(name, "rows/s", goal, "peers are not installed; `make bench` does it")
                continue
            peer = _peer(Path(folder), case, best)
            note = f"{_where(told)}; TRL: {best['said']}"
            yield faster(name, rate, peer, "rows/s", goal, note)
            yield from _utilisation(case, rate, peer, rates)


def _case(method: str, kind: str, workers: int, steps: int, _: float) -> dict[str, Any]:
    threads = 2 // workers
    name = f"{method}, {kind} rows, {workers} x {threads} threads"
    return {"name": name, "method": method, "rows": kind, "workers": workers, "threads": threads, "steps": steps + WARM}


def _ours(cases: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    said = _run([sys.executable, "-m", "tests.benchmarks.training_race", "ours", json.dumps(cases)])
    return {line["name"]: line for line in map(json.loads, said.splitlines()) if "name" in line}


def _best_peer(folder: Path) -> dict[str, Any]:
    """TRL's fastest settings for adapters on short rows; the number format is tried on the fastest of the others."""
    found = [
        _tried(folder, padding_free, attention, False)
        for padding_free, attention in itertools.product((True, False), ("sdpa", "eager"))
    ]
    best = max(found, key=lambda settings: settings["rate"])
    found.append(_tried(folder, best["padding_free"], best["attention"], True))
    return max(found, key=lambda settings: settings["rate"])


def _tried(folder: Path, padding_free: bool, attention: str, bf16: bool) -> dict[str, Any]:
    said = f"{'padding-free' if padding_free else 'grouped by length'}, {attention}, {'bf16' if bf16 else 'fp32'}"
    settings: dict[str, Any] = {"padding_free": padding_free, "attention": attention, "bf16": bf16, "said": said}
    trial = _case("lora", "short", 1, 2, 0) | ({"steps": 2, "warm": 1} if bf16 else {"steps": 5})
    try:
        settings["rate"] = _peer(folder, trial, settings)
    except RuntimeError as problem:
        print(f"    {said}: {problem}", file=sys.stderr)
        return settings | {"rate": 0.0}
    print(f"    TRL {said}: {settings['rate']:.2f} rows/s", file=sys.stderr)
    return settings


def _peer(folder: Path, case: Mapping[str, Any], settings: Mapping[str, Any]) -> float:
    from sftfilter.models import BUILTIN, resolve

    file = write_for_peers(folder / f"{case['rows']}.jsonl", rows_of(case["rows"], BATCH * case["steps"]))
    wanted = {k: case[k] for k in ("method", "workers", "threads", "steps")} | {"warm": case.get("warm", WARM)}
    wanted |= {k: settings[k] for k in ("padding_free", "attention", "bf16")}
    wanted |= {"rows": str(file), "model": resolve(BUILTIN), "batch": BATCH}
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case['workers']}"]
    alone = case["workers"] == 1
    said = _run([str(PEERS.absolute()), *([] if alone else start), str(PEER), json.dumps(wanted)], case["threads"])
    told = json.loads(next(line for line in said.splitlines() if line.startswith('{"rows"')))
    return told["rows"] / told["seconds"]


def _where(told: Mapping[str, Any]) -> str:
    whole = told["step_s"]
    parts = {what: seconds / whole for what, seconds in told["parts_s"].items()}
    parts["rest"] = 1 - sum(parts.values())
    return "ours: " + ", ".join(f"{what} {share:.0%}" for what, share in parts.items())


def _utilisation(case: Mapping[str, Any], ours: float, peer: float, rates: Mapping[str, float]) -> Iterator[Row]:
    """Useful FLOPs, those of a plain dense pass over every token with the head on supervised tokens, per second."""
    if case["workers"] > 1:
        return
    tokens, supervised = _tokens(case["rows"], BATCH * case["steps"])
    passes = 4 if case["method"] == "lora" else 6
    flops = passes * (tokens * LAYERS + supervised * HEAD)
    limit = max(rates.values())
    said = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
    note = (
        f"{tokens:.0f} tokens a row, {supervised:.0f} supervised; GEMM GFLOP/s: {said}; what rows share counts in full"
    )
    unit = "of the GEMM rate"
    yield faster(f"{case['name']}: FLOPs, against TRL's", flops * ours / limit, flops * peer / limit, unit, None, note)


def _tokens(kind: str, count: int) -> tuple[float, float]:
    from sftfilter.chat_format import ChatFormat
    from sftfilter.models import BUILTIN, load_tokenizer, resolve
    from tests.benchmarks.training_race import SYSTEM

    chat = ChatFormat(load_tokenizer(resolve(BUILTIN)), SYSTEM)
    made = [chat.supervised(r["messages"], r["completion"], "assistant") for r in rows_of(kind, count)]
    return sum(len(ids) for ids, _ in made) / count, sum(len(supervised) for _, supervised in made) / count


def _run(command: list[str], threads: int | None = None) -> str:
    """What a process prints. Peers get the allocator settings that our workers have."""
    from jobs.run import worker_env

    allocator = {k: v for k, v in worker_env().items() if k.startswith("MALLOC_")}
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **({} if threads is None else allocator)}
    if threads is not None:
        env |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        env.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[-3:])[:120]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
