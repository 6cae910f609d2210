"""Stage: rollouts. Ray Data streams prompts through actors that hold the teacher's model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.actor_failures import raise_failure, with_failure
from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.attempts import attempt
from sftfilter.errors import DataError, SftfilterError
from sftfilter.generated import few_missing
from sftfilter.generation import Generation, Pool
from sftfilter.schema import QUARANTINE, ROLLOUTS, rollout_id, row_seed

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.chat_format import ChatFormat

VERSION = 4
_REMEDY = (
    "lower `generation_pool.batch` or `generation_pool.max_actors`, or take the prompt out, and run again; finished stages "
    "are kept"
)
_RETRIES = 3
_ROUNDS = 4
"""Sequences that an actor is handed, for each that the engine writes at a time: it sorts them by length."""


def _columns() -> pa.Schema:
    """What is added to prompts."""
    import pyarrow as pa

    return pa.schema([("completion", pa.string()), ("finish_reason", pa.string()), ("seed", pa.int64())])


class Answerer:
    """Ray Data actor: a batch of prompts in, the same rows with the model's answers out."""

    def __init__(
        self, folder: str, system_prompt: str | None, generation: dict[str, Any], pool: dict[str, Any], run: str
    ) -> None:
        import os

        import ray
        import torch

        self.generation, self.run = Generation.model_validate(generation), Path(run)
        self.failure: SftfilterError | None = None
        settings = Pool.model_validate(pool)
        torch.set_num_threads(settings.threads or os.cpu_count() or 1)
        try:
            with attempt(self.run, f"loading the teacher in actor {ray.get_runtime_context().get_actor_id()}", _REMEDY):
                self._load(folder, system_prompt, settings)
        except SftfilterError as error:
            self.failure = error

    def _load(self, folder: str, system_prompt: str | None, settings: Pool) -> None:
        from sftfilter.chat_format import ChatFormat
        from sftfilter.engine import Engine
        from sftfilter.models import load_tokenizer

        self.chat = ChatFormat(load_tokenizer(folder), system_prompt)
        device = "cuda" if settings.gpus_per_actor else "cpu"
        self.engine = Engine(folder, self.chat.stop_id, self.chat.pad_id, device=device, max_batch=settings.batch)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        rows = batch.to_pylist()
        try:
            if self.failure:
                raise self.failure
            first = rows[0]["prompt_id"] if rows else "none"
            with attempt(self.run, f"answering {len(rows)} prompts, {first} first", _REMEDY):
                rows = self._answered(rows)
        except SftfilterError as error:
            self.failure = error  # what is still queued for this actor would fail alike
        for field in _columns():
            batch = batch.append_column(field, pa.array([row.get(field.name) for row in rows], field.type))
        return with_failure(batch, self.failure)

    def _answered(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        pending = list(range(len(rows)))
        for again in range(_RETRIES):
            for i, (text, reason, seed) in zip(pending, self._answer([rows[i] for i in pending], again), strict=True):
                rows[i] |= {"completion": text, "finish_reason": reason, "seed": seed}
            pending = [i for i in pending if not rows[i]["completion"].strip()]
            if not pending or self.generation.temperature == 0:
                break
        return rows

    def _answer(self, rows: list[dict[str, Any]], again: int) -> list[tuple[str, str, int]]:
        from sftfilter.engine import GenerateRequest

        seeds = [row_seed(self.generation.seed, r["prompt_id"], again) for r in rows]
        requests = [
            GenerateRequest(
                self.chat.prompt_ids(r["messages"]), self.generation.max_new_tokens, self.generation.temperature, s
            )
            for r, s in zip(rows, seeds, strict=True)
        ]
        answers = self.engine.generate(requests)
        texts = self.chat.tokenizer.batch_decode([a.ids for a in answers], skip_special_tokens=True)
        return [(t, a.finish_reason, s) for t, a, s in zip(texts, answers, seeds, strict=True)]


def generate_rollouts(
    teacher: str,
    model: str,
    model_hash: str,
    prompts: Artifact,
    *,
    store: Store,
    chat: ChatFormat,
    base_hash: str,
    generation: Generation,
    pool: Pool,
    error_budget: float,
) -> Artifact:
    """Tables `rollouts` (one per prompt) and `quarantine` (prompts that got only empty answers).

    Args:
        error_budget: share of the prompts that may be left without an answer.

    Raises:
        DataError: more were. The answers are kept: the model would give the same again, for its seeds are fixed.
        MachineError: an actor cannot be had, or died too often.
    """

    def make(folder: Path) -> dict[str, Any]:
        source = prompts.table("prompts").select(["prompt_id", "messages", "source"])
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as run:
            answered = list(_stream(model, source, chat, generation, pool, run))
        if len(answered) != source.num_rows:
            raise DataError(f"teacher {teacher}: {source.num_rows} prompts went in, {len(answered)} rows came out")
        rows = [_row(r, teacher, model_hash, base_hash, chat.system_prompt, generation) for r in answered]
        return _write(folder, rows, teacher)

    settings = {"teacher": teacher, "generation": generation.model_dump(mode="json")}
    inputs = {"model": model_hash, "prompts": prompts.key, "format": chat.hash}
    made = store.build("rollouts", version=VERSION, settings=settings, inputs=inputs, make=make)
    if not few_missing(made.meta, error_budget):
        raise DataError(
            f"teacher {teacher} answered nothing to {made.meta['quarantined']} of {made.meta['read']} prompts, more than "
            f"error_budget {error_budget:g} allows (named in {made.path / 'quarantine.parquet'}): look at its training, or "
            f"raise `error_budget` to go on without them. To have it answer anew, delete the folder {made.path}"
        )
    return made


def _stream(
    model: str, prompts: pa.Table, chat: ChatFormat, generation: Generation, pool: Pool, run: str
) -> Iterator[dict[str, Any]]:
    """The prompts with their answers, as they are made. `run` is a folder for what only this run needs."""
    import ray.data

    answered = (
        ray.data.from_arrow(prompts)
        .repartition(_blocks(prompts.num_rows, pool))
        .map_batches(
            Answerer,
            fn_constructor_args=(model, chat.system_prompt, generation.model_dump(), pool.model_dump(), run),
            batch_size=pool.batch * _ROUNDS,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
            num_cpus=pool.cpus_per_actor,
            num_gpus=pool.gpus_per_actor or None,
        )
    )
    batches: Any = answered.iter_batches(batch_size=None, batch_format="pyarrow")
    for found in batches:
        raise_failure(found)
        yield from found.to_pylist()


def _blocks(rows: int, pool: Pool) -> int:
    """As many as there are batches, since a lost actor costs its block; and two an actor, to keep all at work."""
    return max(1, min(rows, max(pool.max_actors * 2, -(-rows // (pool.batch * _ROUNDS)))))


def _row(
    answered: dict[str, Any], teacher: str, model_hash: str, base_hash: str, system: str | None, generation: Generation
) -> dict[str, Any]:
    return {
        "rollout_id": rollout_id(answered["prompt_id"], teacher, answered["completion"]),
        "prompt_id": answered["prompt_id"],
        "messages": answered["messages"],
        "completion": answered["completion"],
        "finish_reason": answered["finish_reason"],
        "teacher": teacher,
        "teacher_base": base_hash,
        "source": answered["source"],
        "generation": {
            "model_hash": model_hash,
            "system_prompt": system,
            "temperature": generation.temperature,
            "max_tokens": generation.max_new_tokens,
            "seed": answered["seed"],
            "sample": 0,
        },
    }


def _write(folder: Path, rows: list[dict[str, Any]], teacher: str) -> dict[str, Any]:
    import pyarrow as pa

    rows = sorted(rows, key=lambda r: r["prompt_id"])
    good = [r for r in rows if r["completion"].strip()]
    bad = [
        {
            "file": r["source"],
            "row": 0,
            "field": "completion",
            "reason": f"{teacher} answered nothing",
            "raw": r["prompt_id"],
        }
        for r in rows
        if not r["completion"].strip()
    ]
    write_table(folder, "rollouts", pa.Table.from_pylist(good, ROLLOUTS))
    write_table(folder, "quarantine", pa.Table.from_pylist(bad, QUARANTINE))
    truncated = sum(r["finish_reason"] == "length" for r in good)
    return {"read": len(rows), "used": len(good), "quarantined": len(bad), "cut_at_max_new_tokens": truncated}
