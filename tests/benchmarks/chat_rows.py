"""Realistic chat rows: prompts, completions and a vocabulary from the shipped files, drawn with a seed."""

from __future__ import annotations

import json
import os
import re
import shutil
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
CHUNK = 62_500
ROW_GROUP = 16_384
WORDS = 200
"""Mean words of a completion: about 1.1 kB a row with its prompt."""


def rows_wanted() -> int:
    """A million, or what SFTFILTER_BENCH_ROWS says."""
    return int(os.environ.get("SFTFILTER_BENCH_ROWS", "1000000"))


def chat_rows(count: int) -> Path:
    """A rollouts table: a folder of Parquet files with several row groups each. Files are made once and kept."""
    folder = (KEPT / f"chat-{count}").resolve()
    if folder.exists():
        return folder
    KEPT.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=KEPT, prefix=".chat-"))
    for number, start in enumerate(range(0, count, CHUNK)):
        (aside / f"{number:05}.parquet").hardlink_to(_file(number, min(CHUNK, count - start)))
    aside.rename(folder)
    return folder


def _file(number: int, count: int) -> Path:
    """Tables of different sizes share their files."""
    path = KEPT / f"{number:05}-{count}.parquet"
    if not path.exists():
        aside = path.with_suffix(".aside")
        pq.write_table(_rows(number, count), aside, compression="zstd", row_group_size=ROW_GROUP)
        shutil.move(aside, path)
    return path


def _rows(number: int, count: int) -> pa.Table:
    rng = np.random.default_rng(number)
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
        "prompt_id": pa.array([f"{n:016x}" for n in range(number * CHUNK, number * CHUNK + count)]),
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
    prompts = [line["prompt"] for line in lines if "prompt" in line]
    completions = [line["completion"] for line in lines if "completion" in line]
    used = Counter(re.findall(r"\S+", " ".join(prompts + completions)))
    # The words that filters look for come with the shipped completions, in a row of twenty and not in every other one.
    return prompts, completions, [word for word, _ in used.most_common() if not re.search("doubt|2026", word.lower())]
