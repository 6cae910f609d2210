"""Rollouts as a teacher answers them: what is asked, a row for each answer, and the tables that the rows end in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import write_table
from sftfilter.errors import DataError
from sftfilter.schema import QUARANTINE, ROLLOUTS, Message, rollout_id, row_seed

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.artifacts import Artifact

ATTEMPTS = 3
"""So often is a prompt asked, with another seed each time, until the answer is not empty."""
_PROBLEM = "problem"
_UNSORTED = "unsorted.parquet"


@dataclass(frozen=True)
class Drawn:
    """How a teacher's answers are drawn, as the rows record it."""

    teacher: str
    system_prompt: str | None
    temperature: float
    top_p: float | None
    max_tokens: int
    seed: int

    def seed_of(self, row: Mapping[str, Any], attempt: int = 0) -> int:
        """A seed of its own for each prompt, sample and attempt; 31 bits, which every server takes."""
        prompt = row["prompt_id"] if row["sample"] == 0 else f"{row['prompt_id']}/{row['sample']}"
        return row_seed(self.seed, prompt, attempt) % 2**31

    def turns(self, row: Mapping[str, Any]) -> list[Message]:
        """The conversation as it is sent."""
        turns: list[Message] = list(row["messages"])
        if self.system_prompt and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        return turns

    def row(
        self, row: Mapping[str, Any], text: str, finish_reason: str | None, seed: int, model: str, base: str | None
    ) -> dict[str, Any]:
        """A row of `rollouts`; one without text has a problem instead."""
        return {
            "rollout_id": rollout_id(row["prompt_id"], self.teacher, text, row["sample"]),
            "prompt_id": row["prompt_id"],
            "messages": row["messages"],
            "completion": text,
            "finish_reason": finish_reason,
            "teacher": self.teacher,
            "teacher_base": base,
            "source": row["source"],
            "generation": {
                "model_hash": model,
                "system_prompt": self.system_prompt,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "max_tokens": self.max_tokens,
                "seed": seed,
                "sample": row["sample"],
            },
            _PROBLEM: None if text.strip() else f"{self.teacher} answered nothing (it ended by {finish_reason})",
        }

    def failed(self, row: Mapping[str, Any], reason: str) -> dict[str, Any]:
        """A row without an answer."""
        return {"prompt_id": row["prompt_id"], "source": row["source"], _PROBLEM: f"{self.teacher}: {reason}"}


def asked(prompts: Artifact, samples: int) -> pa.Table:
    """Columns prompt_id, messages, source and sample: each prompt as often as it is asked."""
    import numpy as np
    import pyarrow as pa

    table = prompts.table("prompts").select(["prompt_id", "messages", "source"])
    rows = table.take(pa.array(np.repeat(np.arange(table.num_rows), samples)))
    return rows.append_column("sample", pa.array(np.tile(np.arange(samples), table.num_rows), pa.int64()))


def generated_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of `Drawn.row` and `Drawn.failed`."""
    import pyarrow as pa

    return pa.Table.from_pylist(rows, ROLLOUTS.append(pa.field(_PROBLEM, pa.string())))


def few_missing(meta: Mapping[str, Any], error_budget: float) -> bool:
    """Whether the budget, a share of the answers asked for, allows as many to be missing as an artifact's `meta` counts.

    Asked of an artifact that is there already too: the budget is no part of its key.
    """
    return bool(meta["quarantined"] <= error_budget * meta["read"])


def write_generated(
    folder: Path, teacher: str, batches: Iterable[pa.Table], *, expected: int, error_budget: float
) -> dict[str, Any]:
    """Tables `rollouts` (by prompt) and `quarantine` from batches as they arrive.

    Raises:
        DataError: rows are missing, or more than the budget allows have no answer.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    bad: list[dict[str, Any]] = []
    models: Counter[str] = Counter()
    read = truncated = 0
    with pq.ParquetWriter(folder / _UNSORTED, ROLLOUTS, compression="zstd") as sink:
        for batch in batches:
            read += batch.num_rows
            answered = pc.is_null(batch[_PROBLEM])  # pyright: ignore[reportAttributeAccessIssue]
            good = batch.filter(answered).select(ROLLOUTS.names).cast(ROLLOUTS)
            sink.write_table(good)
            truncated += pc.sum(pc.equal(good["finish_reason"], "length")).as_py() or 0  # pyright: ignore[reportAttributeAccessIssue]
            models.update(pc.struct_field(good["generation"], "model_hash").to_pylist())  # pyright: ignore[reportAttributeAccessIssue]
            failed = batch.filter(pc.invert(answered)).select(["prompt_id", "source", _PROBLEM])  # pyright: ignore[reportAttributeAccessIssue]
            bad += [
                {"file": r["source"], "row": 0, "field": "completion", "reason": r[_PROBLEM], "raw": r["prompt_id"]}
                for r in failed.to_pylist()
            ]
    if read != expected:
        raise DataError(f"teacher {teacher}: {expected} answers were asked for, {read} rows came out")
    if not few_missing({"read": read, "quarantined": len(bad)}, error_budget):
        reasons = "\n".join(f"  {n} x {reason}" for reason, n in Counter(r["reason"] for r in bad).most_common(5))
        raise DataError(
            f"teacher {teacher}: {len(bad)} of {read} answers are missing, more than error_budget {error_budget:g} "
            f"allows:\n{reasons}\nWhat an endpoint answered is kept; mend the cause and run again."
        )
    rows = pq.read_table(folder / _UNSORTED).sort_by([("prompt_id", "ascending"), ("rollout_id", "ascending")])
    write_table(folder, "rollouts", rows)
    (folder / _UNSORTED).unlink()
    write_table(folder, "quarantine", pa.Table.from_pylist(sorted(bad, key=lambda r: r["raw"]), QUARANTINE))
    counts = {"read": read, "used": rows.num_rows, "quarantined": len(bad), "cut_at_max_new_tokens": truncated}
    if len(models) > 1:
        named = ", ".join(f"{model}: {n} rows" for model, n in models.most_common())
        return counts | {"notes": [f"teacher {teacher}: several models answered: {named}"]}
    return counts
