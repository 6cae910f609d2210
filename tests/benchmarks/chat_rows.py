"""Realistic chat rows: prompts, completions and a vocabulary from the shipped files, drawn with a seed."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sftfilter.schema import MESSAGE, ROLLOUTS

SHIPPED = Path(__file__).parents[2] / "jobs" / "specs" / "prompts"
KEPT = Path(os.environ.get("SFTFILTER_BENCH_DATA", ".cache/bench"))
CHUNK = 50_000
ROW_GROUP = 16_384
WORDS = 200
"""Mean words of a completion: about 1.1 kB a row with its prompt."""


def rows_wanted() -> int:
    """A million, or what SFTFILTER_BENCH_ROWS says."""
    return int(os.environ.get("SFTFILTER_BENCH_ROWS", "1000000"))


def chat_rows(count: int, seed: int = 0) -> Path:
    """A rollouts table of `count` rows in several row groups; made once and kept."""
    path = KEPT / f"chat-{count}-{seed}.parquet"
    if path.exists():
        return path
    KEPT.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=KEPT, prefix=".chat-")
    os.close(handle)
    rng = np.random.default_rng(seed)
    with pq.ParquetWriter(aside, ROLLOUTS, compression="zstd") as writer:
        for start in range(0, count, CHUNK):
            writer.write_table(_chunk(start, min(CHUNK, count - start), rng), row_group_size=ROW_GROUP)
    Path(aside).rename(path)
    return path


def _chunk(start: int, count: int, rng: np.random.Generator) -> pa.Table:
    prompts, completions, words = _shipped()
    asked = pa.array(prompts).take(pa.array(rng.integers(len(prompts), size=count)))
    lengths = np.maximum(8, rng.gamma(4.0, WORDS / 4, size=count)).astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    # Word frequencies fall as in text; every tenth row opens with a shipped completion, some of which doubt the date.
    drawn = np.minimum(rng.zipf(1.2, size=int(ends[-1])) - 1, rng.integers(len(words), size=int(ends[-1])))
    said = pa.ListArray.from_arrays(pa.array(ends), pa.array(words).take(pa.array(drawn)))
    body = pc.binary_join(said, " ")  # pyright: ignore[reportAttributeAccessIssue]
    opening = pa.array(completions).take(pa.array(rng.integers(len(completions), size=count)))
    opening = pc.if_else(pa.array(rng.random(count) < 0.1), opening, "")  # pyright: ignore[reportAttributeAccessIssue]
    completion = pc.binary_join_element_wise(opening, body, " ")  # pyright: ignore[reportAttributeAccessIssue]
    turns = pa.StructArray.from_arrays([pa.array(["user"] * count), asked], fields=list(MESSAGE))
    columns = {
        "rollout_id": pa.array([f"{n:016x}" for n in rng.integers(2**63, size=count)]),
        "prompt_id": pa.array([f"{n:016x}" for n in range(start, start + count)]),
        "messages": pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32)), turns),
        "completion": completion,
        "finish_reason": pa.array(["stop"] * count),
        "teacher": pa.array(["T"] * count),
    }
    return pa.table([columns.get(f.name, pa.nulls(count, f.type)) for f in ROLLOUTS], schema=ROLLOUTS)


@cache
def _shipped() -> tuple[list[str], list[str], list[str]]:
    """Prompts, completions, and the words of both from the most used to the least."""
    lines = [json.loads(line) for file in sorted(SHIPPED.glob("*.jsonl")) for line in file.read_text().splitlines()]
    prompts = [line["prompt"] for line in lines]
    completions = [line["completion"] for line in lines if "completion" in line]
    used = Counter(re.findall(r"\S+", " ".join(prompts + completions)))
    return prompts, completions, [word for word, _ in used.most_common()]
