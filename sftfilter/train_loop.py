"""What a training worker does: DeepSpeed inside a Ray Train loop, one arm after another on warm weights."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray.train
import torch
import torch.distributed as dist
from transformers import AutoConfig

from sftfilter import progress, resume, run_log
from sftfilter.artifacts import Store
from sftfilter.between_steps import BetweenSteps
from sftfilter.chat_format import ChatFormat
from sftfilter.checkpoint import save_student
from sftfilter.config import stable_hash
from sftfilter.disk import disk_errors
from sftfilter.errors import DataError, DivergedError, SftfilterError, TrainingError
from sftfilter.extension_lock import await_builds
from sftfilter.models import check_weights, load_tokenizer
from sftfilter.packed import Row
from sftfilter.rank_zero import agree
from sftfilter.step_exports import StepExports
from sftfilter.step_log import StepLog
from sftfilter.step_ranking import begin_unranked, is_set_aside, set_aside, waits_for_rates
from sftfilter.student import Student, training_device
from sftfilter.train_failures import (
    SHOWN,
    check_loss,
    diverged,
    is_out_of_memory,
    keep_diverged,
    keep_refusal,
    memory_knobs,
    out_of_memory,
    refusal,
    worst_loss,
)
from sftfilter.train_stop import Stopped, wished
from sftfilter.train_watchdog import Watchdog
from sftfilter.training import EXPORTS, STAGE, STATES
from sftfilter.training_plan import split_step
from sftfilter.training_settings import Execution, TrainingSettings
from sftfilter.utilisation import step_flops
from sftfilter.warm_base import WarmBase

_LOGGER = logging.getLogger(__name__)


def train_worker(config: Mapping[str, Any]) -> None:
    """Entry point of every Ray Train worker."""
    work = Path(config["work"])
    run_log.join(config.get("log"), "trainer")
    if agree(refusal(work) is not None):
        return  # Ray Train tries every failure again, and this one would only repeat itself
    patience = config["execution"]["collective_timeout_s"]
    try:
        with Watchdog(work, dist.get_rank(), patience) as watchdog:
            _train_arms(config, work, watchdog)
    except Stopped:
        _LOGGER.info("stopped")
    except SftfilterError as error:
        keep_refusal(work, dist.get_rank(), error)
        _LOGGER.error("%s", error, extra={"rank": dist.get_rank()})
        raise
    if dist.get_rank() == 0:
        progress.append(work / "progress.jsonl", {"ended": True})


def _train_arms(config: Mapping[str, Any], work: Path, watchdog: Watchdog) -> None:
    execution = Execution.model_validate(config["execution"])
    torch.set_num_threads(max(1, int(execution.cpus_per_worker)))
    # DeepSpeed compiles (or looks up) its CPU communication with ninja, which lies beside our interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if "TORCH_EXTENSIONS_DIR" in os.environ:
        await_builds(Path(os.environ["TORCH_EXTENSIONS_DIR"]))
    store = Store(config["store"])
    chat = ChatFormat(load_tokenizer(config["base"]), config["system_prompt"])
    if chat.hash != config["format_hash"]:
        raise TrainingError(
            f"this worker's tokenizer and template hash to {chat.hash}, the plan's to {config['format_hash']}: "
            "every node must load the same model files"
        )
    if ray.train.get_context().get_local_rank() == 0:
        check_weights(config["base"], config["base_hash"])
    _check_vocabulary(config, chat)
    _say_who_works(work)
    warm = WarmBase(config["base"], execution, training_device(execution))
    tokens: dict[str, Row] = {}
    found = resume.last()  # one checkpoint is kept: another arm's first would take its place
    for job in sorted(config["jobs"], key=lambda job: not found or job["key"] != found.state.key):
        key = job["key"]
        if agree(dist.get_rank() == 0 and _is_done(store, work, key)):
            continue
        if agree(wished(work)):
            raise Stopped
        try:
            watchdog.other(f"reading {job['name']}")
            arm = Arm.read(job, chat, tokens)
            _train_arm(arm, job, config, execution, chat, store, work, warm, watchdog)
        except DivergedError as error:  # on every worker alike: loss and gradient norm are those of the whole step
            if dist.get_rank() == 0:
                keep_diverged(work, key, error)
            dist.barrier()


def _is_done(store: Store, work: Path, key: str) -> bool:
    """Whether nothing is left to train of a student."""
    return store.find(STAGE, key) is not None or diverged(work, key) is not None or is_set_aside(work / EXPORTS / key)


def _check_vocabulary(config: Mapping[str, Any], chat: ChatFormat) -> None:
    """Refuse a tokenizer of another model: ids that the model has no embedding for."""
    model = AutoConfig.from_pretrained(config["base"], trust_remote_code=False).get_text_config()
    highest = max(chat.tokenizer.get_vocab().values())
    if highest >= model.vocab_size:
        raise TrainingError(
            f"the tokenizer (format hash {chat.hash}) has token ids up to {highest} and the base model (hash "
            f"{config['base_hash']}) {model.vocab_size} embeddings: they belong to different models"
        )


@dataclass(frozen=True)
class Arm:
    """What one student is trained on."""

    key: str
    name: str
    seed: int
    settings: TrainingSettings
    plan: list[list[str | None]]
    rows: dict[str, Row]

    @staticmethod
    def read(job: Mapping[str, Any], chat: ChatFormat, tokens: dict[str, Row]) -> Arm:
        """From the files that the driver wrote.

        Args:
            tokens: rows that earlier arms tokenised, by the hash of their texts; new ones are added.
        """
        folder = Path(job["folder"])
        settings = TrainingSettings.model_validate(job["settings"])
        rows = read_rows(folder / "rows.parquet", chat, settings, tokens)
        return Arm(job["key"], job["name"], job["seed"], settings, json.loads((folder / "plan.json").read_text()), rows)

    def split(self, step: list[str | None], execution: Execution) -> list[list[list[int]]]:
        """A step's micro-batches on each worker, by `split_step`."""
        lengths = [len(self.rows[row]) for row in step if row is not None]
        return split_step(lengths, dist.get_world_size(), execution.micro_batch_tokens)


def _train_arm(
    arm: Arm,
    job: Mapping[str, Any],
    config: Mapping[str, Any],
    execution: Execution,
    chat: ChatFormat,
    store: Store,
    work: Path,
    warm: WarmBase,
    watchdog: Watchdog,
) -> None:
    began = time.monotonic()
    known = run_log.told()
    run_log.at(known.stage if known else None, arm.name)
    found = resume.find(arm.key)
    place = {"rank": dist.get_rank(), "workers": dist.get_world_size(), "steps": len(arm.plan)}
    _LOGGER.info("begins at step %d", found.state.step if found else 0, extra=place)
    universal = found.universal(arm.name, execution) if found else False
    watchdog.other(f"loading {arm.name}")
    states = work / STATES
    splits = any(len(arm.split(step, execution)[0]) > 1 for step in arm.plan)
    student = Student(
        config["base"], arm.settings, execution, arm.seed, len(arm.plan), chat, universal, warm, states, splits
    )
    losses: list[float] = []
    if found:
        found.load(student, universal)
        losses = list(found.state.losses)
        if dist.get_rank() == 0:
            progress.append(work / "progress.jsonl", {"resumed": arm.name, "at": found.state.step})
    rate = warm.product_rate(student.model)
    log = _step_log(student, arm, job, work, rate, len(losses)) if dist.get_rank() == 0 else None
    wanted = arm.settings.exports
    exports = StepExports(wanted, work / EXPORTS, arm.key, chat) if wanted else None
    between = BetweenSteps(arm.key, arm.name, len(arm.plan), arm.settings, exports, config["asks"], work, watchdog.beat)
    try:
        if found:
            between.resumed(student, losses)
        _run_steps(student, arm, losses, log, watchdog, between)
    except DivergedError:
        student.close()
        raise
    finally:
        if log:
            log.close()
    watchdog.other(f"writing {arm.name}")
    weights = student.weights()
    with student.whole_adapters():
        if dist.get_rank() == 0:
            _export(student, weights, chat, store, job, config, losses, time.monotonic() - began, exports)
    student.close()
    dist.barrier()
    took = round(time.monotonic() - began, 2)
    _LOGGER.info("done", extra=place | {"loss": losses[-1] if losses else None, "seconds": took})
    ray.train.report({"arm": arm.name, "loss": losses[-1] if losses else None})


def _step_log(student: Student, arm: Arm, job: Mapping[str, Any], work: Path, rate: float, done: int) -> StepLog:
    facts = {"key": arm.key, "seed": arm.seed, **job["settings"], **job["labels"]}
    places = work / "progress.jsonl", work.parent / "tensorboard"
    flops = step_flops(student.model, student.keeps_below)
    log = StepLog(*places, student.execution.tracking, arm.name, len(arm.plan), facts, flops, rate, done)
    if not student.packs:
        log.note("rows are computed one at a time: in this model's layers, packed rows would see each other")
    return log


def _export(
    student: Student,
    weights: Mapping[str, torch.Tensor],
    chat: ChatFormat,
    store: Store,
    job: Mapping[str, Any],
    config: Mapping[str, Any],
    losses: list[float],
    seconds: float,
    exports: StepExports | None,
) -> None:
    unranked = exports is not None and waits_for_rates(exports.wanted)
    folder = begin_unranked(exports.folder) if exports and unranked else store.begin(STAGE, job["key"])
    try:
        with disk_errors(store.root):
            meta = save_student(student.model, weights, chat, folder, job, config, losses, seconds)
            if unranked:
                set_aside(folder, meta)
                return
            meta["exports"] = exports.copy_into(folder) if exports else []
            store.commit(folder, STAGE, job["key"], meta)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_rows(
    path: Path, chat: ChatFormat, settings: TrainingSettings, tokens: dict[str, Row] | None = None
) -> dict[str, Row]:
    """Tokenised rows by row id.

    Args:
        tokens: see `Arm.read`.

    Raises:
        DataError: rows are longer than `max_length` tokens, or cannot be rendered as the loss needs; all are named.
    """
    rows: dict[str, Row] = {}
    bad: list[str] = []
    known = {} if tokens is None else tokens
    for record in pq.read_table(path).to_pylist():
        text = stable_hash([record["messages"], record["completion"], settings.loss_on])
        row = known.get(text)
        if row is None:
            try:
                row = Row(*chat.supervised(record["messages"], record["completion"], settings.loss_on))
            except DataError as error:
                bad.append(f"row {record['row_id']}: {error}")
                continue
            known[text] = row
        if len(row) > settings.max_length:
            bad.append(
                f"row {record['row_id']} has {len(row)} tokens, training.max_length is {settings.max_length}: "
                "raise it or drop the row"
            )
        rows[record["row_id"]] = row
    if bad:
        more = f"\nand {len(bad) - SHOWN} more rows" if len(bad) > SHOWN else ""
        raise DataError("\n".join(bad[:SHOWN]) + more)
    return rows


def _run_steps(
    student: Student,
    arm: Arm,
    losses: list[float],
    log: StepLog | None,
    watchdog: Watchdog,
    between: BetweenSteps,
) -> None:
    """Go on from the step that `losses` has reached."""
    vocabulary = len(student.chat.tokenizer)
    for number in range(len(losses), len(arm.plan)):
        watchdog.step(number + 1)
        began = time.monotonic()
        names = [r for r in arm.plan[number] if r is not None]
        batch = [arm.rows[r] for r in names]
        wait = time.monotonic() - began
        rate = float(student.schedule.get_last_lr()[0])
        loss, processed = _step(student, batch, names, arm.name, number + 1)
        norm = student.gradient_norm
        suspects = names
        if not math.isfinite(loss):  # the same on every worker, so all of them ask
            suspects = [names[i] for i in _gathered(student.bad_rows)] or names
        check_loss(arm.name, number + 1, loss, norm, suspects, worst_loss(losses, vocabulary))
        losses.append(loss)
        if log:
            supervised = sum(len(row.supervised) for row in batch)
            log.step(number + 1, loss, rate, norm, processed, supervised, time.monotonic() - began, wait, student.spent)
        between.after(student, losses)


def _step(student: Student, batch: list[Row], names: list[str], arm: str, number: int) -> tuple[float, int]:
    """A step whose lack of memory is told with the micro-batch that met it."""
    try:
        return student.step(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        knobs = memory_knobs(student.execution)
        current = student.micro_batch
        length = sum(len(batch[i]) for i in current)
        raise out_of_memory(arm, number, [names[i] for i in current], length, knobs) from error


def _say_who_works(work: Path) -> None:
    (work / f"stuck-{dist.get_rank()}.json").unlink(missing_ok=True)  # of a group before this one
    workers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(workers, {"rank": dist.get_rank(), "host": socket.gethostname(), "pid": os.getpid()})
    if dist.get_rank() == 0:
        progress.append(work / "progress.jsonl", {"workers": workers})


def _gathered(indices: list[int]) -> list[int]:
    """Every worker's indices, on every worker."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, indices)
    return sorted({i for some in found for i in some})
