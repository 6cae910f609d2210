"""What a training worker does: DeepSpeed inside a Ray Train loop, one arm after another on warm weights."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray.train
import torch
import torch.distributed as dist

from sftfilter import progress
from sftfilter.artifacts import Store, disk_errors
from sftfilter.chat_format import ChatFormat
from sftfilter.checkpoint import save_student
from sftfilter.errors import DataError, TrainingError
from sftfilter.models import load_tokenizer
from sftfilter.packed import Row
from sftfilter.student import Student
from sftfilter.training import STAGE, Execution, TrainingSettings


def train_worker(config: dict[str, Any]) -> None:
    """Entry point of every Ray Train worker."""
    execution = Execution.model_validate(config["execution"])
    torch.set_num_threads(max(1, int(execution.cpus_per_worker)))
    # DeepSpeed compiles (or looks up) its CPU communication with ninja, which lies beside our interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    store = Store(config["store"])
    chat = ChatFormat(load_tokenizer(config["base"]), config["system_prompt"])
    if chat.hash != config["format_hash"]:
        raise TrainingError(
            f"this worker's tokenizer and template hash to {chat.hash}, the plan's to {config['format_hash']}: "
            "every node must load the same model files"
        )
    rank_zero = dist.get_rank() == 0
    for job in config["jobs"]:
        done = store.find(STAGE, job["key"]) is not None if rank_zero else False
        if _agree(done):
            continue
        began = time.monotonic()
        settings = TrainingSettings.model_validate(job["settings"])
        rows = read_rows(Path(job["folder"]) / "rows.parquet", chat, settings.max_length)
        plan = json.loads((Path(job["folder"]) / "plan.json").read_text())
        student = Student(config["base"], settings, execution, job["seed"], len(plan), chat)
        losses = _run_steps(student, plan, rows, job["name"], Path(config["progress"]))
        student.gather_for_export()
        if rank_zero:
            _export(student, chat, store, job, config, losses, time.monotonic() - began)
        student.close()
        dist.barrier()
        ray.train.report({"arm": job["name"], "loss": losses[-1] if losses else None})


def _export(
    student: Student,
    chat: ChatFormat,
    store: Store,
    job: dict[str, Any],
    config: dict[str, Any],
    losses: list[float],
    seconds: float,
) -> None:
    folder = store.begin(STAGE, job["key"])
    try:
        with disk_errors(store.root):
            meta = save_student(student.model, chat, folder, job, config, losses, seconds)
            store.commit(folder, STAGE, job["key"], meta)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_rows(path: Path, chat: ChatFormat, max_length: int) -> dict[str, Row]:
    """Tokenised rows by row id.

    Raises:
        DataError: a row is longer than `max_length` tokens.
    """
    rows: dict[str, Row] = {}
    for record in pq.read_table(path).to_pylist():
        prompt = chat.prompt_ids(record["messages"])
        answer = chat.answer_ids(record["messages"], record["completion"])
        if len(prompt) + len(answer) > max_length:
            raise DataError(
                f"row {record['row_id']} has {len(prompt) + len(answer)} tokens, training.max_length is {max_length}: "
                "raise it or drop the row"
            )
        rows[record["row_id"]] = (prompt, answer)
    return rows


def _run_steps(
    student: Student, plan: list[list[str | None]], rows: dict[str, Row], name: str, events: Path
) -> list[float]:
    losses: list[float] = []
    tokens = 0
    began = time.monotonic()
    for number, slots in enumerate(plan):
        batch = [rows[r] for r in slots if r is not None]
        loss, processed = student.step(batch)
        if not math.isfinite(loss):
            raise TrainingError(
                f"arm {name}: the loss is {loss} at step {number} (rows {', '.join(r for r in slots if r)}): lower "
                "training.learning_rate or look at these rows"
            )
        losses.append(loss)
        tokens += processed
        if dist.get_rank() == 0:
            rate = tokens / (time.monotonic() - began)
            event = {"arm": name, "step": number + 1, "steps": len(plan), "loss": loss, "tokens_per_s": rate}
            progress.append(events, event)
    return losses


def _agree(value: bool) -> bool:
    """Rank 0's word, on every rank."""
    answer = [value]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]
