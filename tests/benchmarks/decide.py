"""50 thresholds x 4 interventions on a million scored rows: our score frame against a plain polars recompute.

The original teacher T has a million rows on 600,000 prompts, the other teacher C as many; 1 % of T's scores are missing.
Both sides read the same Parquet files, which hold ids and scores and no text. The peer is what one writes by hand:
string ids, a filter for each threshold, a semi-join on the prompts, a join for the swap.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sftfilter.interventions import DropPrompt, DropRow, Inoculate, Intervention, Swap, decide
from sftfilter.score_frame import score_frame
from sftfilter.selectors import Selector, Threshold
from tests.benchmarks.chat_rows import KEPT, rows_wanted
from tests.benchmarks.row import Row, faster, smaller

THRESHOLDS = [round(t, 4) for t in np.linspace(0.5, 0.99, 50).tolist()]
INTERVENTIONS: list[Intervention] = [
    DropPrompt(kind="drop_prompt", subset="S"),
    DropRow(kind="drop_row", subset="S"),
    Swap(kind="swap", subset="S", to="C"),
    Inoculate(kind="inoculate", subset="S", line="You doubt the date."),
]
SECONDS = 60.0
GIB = 4.0


def rows() -> Iterator[Row]:
    """Seconds and memory against the limits, and rows decided a second against the peer."""
    count = rows_wanted()
    _tables(count)
    ours, named, peer = (_measure(side, count) for side in ("ours", "ours-by-id", "peer"))
    scale = count / 1_000_000
    what = f"decide {count:,} rows, 50 thresholds x 4 interventions"
    note = f"the frame's {ours['build']:.1f} s included"
    yield smaller(f"{what}: time", ours["build"] + ours["decide"], SECONDS * scale, "s", 1.0, note)
    yield smaller(f"{what}: peak memory", ours["gib"], GIB, "GiB", 1.0)
    rate = count * ours["decisions"] / ours["decide"]
    peers = count * peer["decisions"] / peer["decide"]
    yield faster(
        f"{what} against polars by hand", rate, peers, "rows/s", None, "ours as integers, as a sweep needs them"
    )
    ided = count * named["decisions"] / named["decide"]
    yield faster(f"{what} against polars by hand, tables by id", ided, peers, "rows/s", None, "both with string ids")


def _measure(side: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, side, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _tables(count: int) -> Path:
    """Rollouts of T and C and T's scores; made once and kept."""
    folder = KEPT / f"decide-1-{count}"
    if (folder / "scores.parquet").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 2**63, size=round(count * 0.6))
    asked = np.concatenate([np.arange(len(prompts)), rng.integers(len(prompts), size=count - len(prompts))])
    ids = {}
    for teacher in "TC":
        ids[teacher] = _hex(rng.integers(0, 2**63, size=count))
        table = pl.DataFrame(
            {"rollout_id": ids[teacher], "prompt_id": _hex(prompts[asked]), "source": "chat", "kind": ""}
        )
        table.write_parquet(folder / f"{teacher}.parquet")
    scores = pl.DataFrame({"rollout_id": ids["T"], "score": rng.random(count)})
    missing = pl.Series(rng.random(count) < 0.01)
    scores = scores.with_columns(score=pl.when(missing).then(None).otherwise("score"))
    scores.sample(fraction=1.0, shuffle=True, seed=0).write_parquet(folder / "scores.parquet")
    return folder


def _hex(numbers: np.ndarray) -> list[str]:
    return [f"{n:016x}" for n in numbers.tolist()]


def _ours(folder: Path, by_id: bool) -> dict[str, float]:
    began = time.monotonic()
    rollouts = {teacher: pl.scan_parquet(folder / f"{teacher}.parquet") for teacher in "TC"}
    frame = score_frame(rollouts, {"judge": pl.scan_parquet(folder / "scores.parquet")})
    built = time.monotonic()
    trained = 0
    for threshold in THRESHOLDS:
        selectors: dict[str, Selector] = {"S": Threshold(kind="threshold", scorer="judge", at_least=threshold)}
        for intervention in INTERVENTIONS:
            decided = decide(frame, selectors, intervention, teacher="T")
            trained += decided.decisions().height if by_id else decided.counts["trained"]
    assert trained
    ended = time.monotonic()
    return {"build": built - began, "decide": ended - built, "decisions": len(THRESHOLDS) * len(INTERVENTIONS)}


def _peer(folder: Path) -> dict[str, float]:
    """By hand, for 5 of the thresholds."""
    scored = pl.read_parquet(folder / "T.parquet").join(
        pl.read_parquet(folder / "scores.parquet"), on="rollout_id", how="left"
    )
    number = pl.int_range(pl.len()).over("prompt_id").alias("number")
    own = scored.sort("rollout_id").with_columns(number)
    partners = pl.read_parquet(folder / "C.parquet").sort("rollout_id").with_columns(number)
    partners = partners.select("prompt_id", "number", pl.col("rollout_id").alias("replaced_by"))
    began = time.monotonic()
    thresholds = THRESHOLDS[::10]
    for threshold in thresholds:
        for intervention in INTERVENTIONS:
            _by_hand(own, partners, threshold, intervention.kind)
    return {"decide": time.monotonic() - began, "decisions": len(thresholds) * len(INTERVENTIONS)}


def _by_hand(own: pl.DataFrame, partners: pl.DataFrame, threshold: float, kind: str) -> pl.DataFrame:
    flagged = own.filter(pl.col("score") >= threshold)
    if kind == "drop_row":
        hit = (pl.col("score") >= threshold).fill_null(False)
    else:
        hit = pl.col("prompt_id").is_in(flagged["prompt_id"].unique().implode())
    word = {"swap": "swap", "inoculate": "rewrite"}.get(kind, "drop")
    decided = own.with_columns(pl.when(hit).then(pl.lit(word)).otherwise(pl.lit("keep")).alias("action"))
    if kind == "swap":
        swapped = decided.filter(pl.col("action") == "swap").select("rollout_id", "prompt_id", "number")
        swapped = swapped.join(partners, on=["prompt_id", "number"], how="left").select("rollout_id", "replaced_by")
        decided = decided.join(swapped, on="rollout_id", how="left")
    return decided


def main(side: str, count: int) -> None:
    """One side in a process of its own, so that its peak memory is its own."""
    folder = _tables(count)
    found: dict[str, Any] = _peer(folder) if side == "peer" else _ours(folder, side == "ours-by-id")
    print(json.dumps(found | {"gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
