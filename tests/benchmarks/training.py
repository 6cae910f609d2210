"""Training beside TRL's SFTTrainer: rows/s on the same rows, model, batch and threads, and how near both come to the
rate of the CPU's matrix products.

TRL runs at the best of several settings, which are tried first for each method and kind of rows: padded batches grouped
by length or padding-free, `sdpa` or `eager` attention, float32 weights with or without bfloat16 autocast, and steps of
two halves; for LoRA bfloat16 weights as well (trained weights have a float32 copy in ours, so they do in TRL); without
gradient checkpointing, with torch's fused AdamW, and with the allocator that our workers have. Ours runs as shipped.
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
    ("lora", "short", 1, 20, 1.5),
    ("full", "short", 1, 15, 1.3),
    ("lora", "short", 2, 20, 1.0),
    ("full", "short", 2, 10, 1.0),
    ("lora", "long", 1, 4, 1.0),
)


_PLAIN, _AUTOCAST = {"weights": "float32", "autocast": False}, {"weights": "float32", "autocast": True}
_FORMATS = {"lora": ({"weights": "bfloat16", "autocast": False}, _PLAIN, _AUTOCAST), "full": (_AUTOCAST, _PLAIN)}
"""TRL's number formats; the first is the one that its other settings are tried with."""


def rows() -> Iterator[Row]:
    """A row for each case, then what share of the GEMM rate either reaches."""
    rates = json.loads(_run([sys.executable, "-m", "tests.benchmarks.training_race", "gemm", "2"]))
    cases = [_case(*case) for case in CASES]
    ours = _ours(cases)
    best: dict[tuple[str, str], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case, goal in zip(cases, (case[-1] for case in CASES), strict=True):
            told = ours[case["name"]]
            rate = told["rows"] / told["seconds"]
            name = f"{case['name']}, against TRL"
            if not PEERS.exists():
                yield missing(name, "rows/s", goal, "peers are not installed; `make bench` does it")
                continue
            kind = case["method"], case["rows"]
            if kind not in best:
                best[kind] = _best_peer(Path(folder), *kind)
            peer = _peer(Path(folder), case, best[kind])
            yield faster(name, rate, peer, "rows/s", goal, f"{_where(told)}; TRL: {_said(best[kind])}")
            yield from _utilisation(case, rate, peer, rates)


def _case(method: str, kind: str, workers: int, steps: int, _: float) -> dict[str, Any]:
    threads = 2 // workers
    name = f"{method}, {kind} rows, {workers} x {threads} threads"
    return {"name": name, "method": method, "rows": kind, "workers": workers, "threads": threads, "steps": steps + WARM}


def _ours(cases: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    said = _run([sys.executable, "-m", "tests.benchmarks.training_race", "ours", json.dumps(cases)])
    return {line["name"]: line for line in map(json.loads, said.splitlines()) if "name" in line}


def _best_peer(folder: Path, method: str, kind: str) -> dict[str, Any]:
    """TRL's fastest settings on one worker, a number format and two halves being tried on the fastest of the others."""
    trial = _case(method, kind, 1, 1 if kind == "long" else 3, 0)
    start, *formats = _FORMATS[method]
    first = [
        {"padding_free": padding_free, "attention": attention, "halves": 1, **start}
        for padding_free, attention in itertools.product((True, False), ("sdpa", "eager"))
    ]
    tried = [(_tried(folder, trial, settings), settings) for settings in first]
    for change in (*formats, {"halves": 2}):
        settings = max(tried, key=_rate)[1] | change
        tried.append((_tried(folder, trial, settings), settings))
    return max(tried, key=_rate)[1]


def _rate(tried: tuple[float, Mapping[str, Any]]) -> float:
    return tried[0]


def _said(settings: Mapping[str, Any]) -> str:
    batches = "padding-free" if settings["padding_free"] else "grouped by length"
    autocast = " under bfloat16 autocast" if settings["autocast"] else ""
    halves = ", steps of two halves" if settings["halves"] == 2 else ""
    return f"{batches}, {settings['attention']}, {settings['weights']} weights{autocast}{halves}"


def _tried(folder: Path, trial: Mapping[str, Any], settings: Mapping[str, Any]) -> float:
    name = f"TRL, {trial['name']}, {_said(settings)}"
    try:
        rate = _peer(folder, trial, settings)
    except (RuntimeError, subprocess.TimeoutExpired) as problem:
        print(f"    {name}: {problem}", file=sys.stderr)
        return 0.0
    print(f"    {name}: {rate:.2f} rows/s", file=sys.stderr)
    return rate


def _peer(folder: Path, case: Mapping[str, Any], settings: Mapping[str, Any]) -> float:
    from sftfilter.models import BUILTIN, resolve

    file = write_for_peers(folder / f"{case['rows']}.jsonl", rows_of(case["rows"], BATCH * case["steps"]))
    wanted = {**{k: case[k] for k in ("method", "workers", "threads", "steps")}, **settings, "warm": WARM}
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
    """What a process prints. Peers get the allocator that our workers have."""
    from sftfilter.allocator import allocator_env

    env = {**os.environ, "HF_HUB_OFFLINE": "1", **({} if threads is None else allocator_env())}
    if threads is not None:
        env |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        env.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[-3:])[:120]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
