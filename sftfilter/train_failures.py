"""What stops a training run, in words: which arm, step and rows, and which knob to turn."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sftfilter import errors
from sftfilter.disk import disk_error
from sftfilter.errors import DivergedError, MachineError, SftfilterError, TrainingError
from sftfilter.training_settings import Execution

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_NO_ANSWER = ("timed out", "timeout", "watchdog caught collective")
SHOWN = 8


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or in the host."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in text for t in _NO_MEMORY))


def out_of_memory(arm: str, step: int, rows: Sequence[str], tokens: int, knobs: str) -> TrainingError:
    """The micro-batch that did not fit, and what to turn."""
    return TrainingError(
        f"arm {arm}, step {step}: out of memory in a micro-batch of {len(rows)} rows and {tokens} tokens "
        f"({named(rows)}): {knobs}"
    )


def memory_knobs(execution: Execution) -> str:
    """The settings that lower the need for memory, those that are in use already left out."""
    second = "execution.zero_stage: 3" if execution.zero_stage < 3 else "execution.offload: all"
    if not execution.gradient_checkpointing:
        second = "execution.gradient_checkpointing: true"
    return f"lower execution.micro_batch_tokens (now {execution.micro_batch_tokens}) or set {second}"


def worst_loss(losses: Sequence[float], vocabulary: int) -> float:
    """Nats a token that no student which still learns exceeds.

    Three times guessing at first; later the larger of guessing and of three times the least loss so far: a model that
    has known better and now does worse than guessing is lost.
    """
    guessing = math.log(vocabulary)
    return min(3 * guessing, max(guessing, 3 * min(losses))) if losses else 3 * guessing


_KNOWN = 0.1
"""Nats a token of a student that knows its rows, whose gradient may round to nothing."""


def check_loss(arm: str, step: int, loss: float, grad_norm: float, rows: Sequence[str], worst: float) -> None:
    """Stop a step that is lost.

    Args:
        rows: whose micro-batches gave a loss that is not finite; all of the step's when they cannot be told apart.
        worst: of `worst_loss`.

    Raises:
        DivergedError: loss or gradient are not finite, the gradient is gone though there is a loss, or the loss is worse
            than that.
    """
    what = None
    if not math.isfinite(loss):
        what = f"the loss is {loss}"
    elif not math.isfinite(grad_norm):
        what = f"the gradient's norm is {grad_norm}"
    elif grad_norm == 0 and loss > _KNOWN:
        what = f"the gradient's norm is 0 and the loss {loss:.1f} nats a token: weights overflow, nothing is learned"
    elif loss > worst:
        what = (
            f"the loss is {loss:.1f} nats a token, and no student that learns goes above {worst:.1f}: training diverges"
        )
    if what:
        raise DivergedError(
            f"arm {arm}: {what} at step {step} (rows {named(rows)}): lower training.learning_rate or "
            "training.max_grad_norm, or look at these rows"
        )


def named(rows: Sequence[str]) -> str:
    """Row ids, the first few of many."""
    return ", ".join(rows[:SHOWN]) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")


def keep_refusal(folder: Path, rank: int, error: SftfilterError) -> None:
    """Leave word for the driver that trying again is of no use."""
    whole = folder / f"refused-{rank}.json"
    partial = whole.with_suffix(".partial")
    with contextlib.suppress(OSError):  # the disk may be what this is about
        partial.write_text(json.dumps({"kind": type(error).__name__, "message": str(error)}))
        partial.replace(whole)


def keep_diverged(folder: Path, key: str, error: DivergedError) -> None:
    """Leave word for the driver that the student with this key is not to be had."""
    whole = _diverged_file(folder, key)
    partial = whole.with_suffix(".partial")
    partial.write_text(json.dumps({"message": str(error)}))
    partial.replace(whole)


def diverged(folder: Path, key: str) -> str | None:
    """Why the student with this key was given up in this run."""
    file = _diverged_file(folder, key)
    return json.loads(file.read_text())["message"] if file.exists() else None


def _diverged_file(folder: Path, key: str) -> Path:
    return folder / f"diverged-{key}.json"


def refusal(folder: Path) -> SftfilterError | None:
    """What a worker left word of."""
    for file in sorted(folder.glob("refused-*.json")):
        with contextlib.suppress(json.JSONDecodeError):  # a disk that was full took a part
            told = json.loads(file.read_text())
            return getattr(errors, told["kind"], TrainingError)(told["message"])
    return None


def readable(
    error: Exception, workers: int, last: Mapping[str, object], knobs: str, stuck: str | None, folder: Path
) -> SftfilterError:
    """A worker's own reason, out of Ray Train's wrapping.

    Args:
        workers: in the group.
        last: the last progress event.
        stuck: who did not answer, if others gave up waiting.
        folder: where the run writes.
    """
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", None) or {}
    where = f" (arm {last['arm']}, after step {last['step']} of {last['steps']})" if "step" in last else ""
    reasons = {rank: reason(failure) for rank, failure in failures.items()}
    for cause, _ in reasons.values():
        if isinstance(cause, SftfilterError):
            return cause
    if "StartupTimeout" in type(getattr(error, "controller_failure", None)).__name__:
        return MachineError(
            f"the cluster gave training no workers{where} within execution.start_timeout_s: look at its nodes and its "
            "autoscaler (`ray status`), then run again, or ask for fewer or smaller workers"
        )
    for failed in [*failures.values(), error]:
        if told := disk_error(failed, folder):
            return told
    if stuck:
        return TrainingError(
            f"{stuck}{where}, within execution.collective_timeout_s: look at its machine, then run again to go on from "
            "the last checkpoint"
        )
    if any("low on memory" in str(failed) for failed in (error, *(cause for cause, _ in reasons.values()))):
        return TrainingError(
            f"Ray ended training processes{where}, since their node was running low on memory: {knobs}. Run again to go on "
            "from the last checkpoint"
        )
    dead = _dead(failures)
    if dead:
        return TrainingError(
            f"training worker {_ranks(dead)} died{where}: killed, out of memory, or its node is gone. If it was memory, "
            f"{knobs}. Run again to go on from the last checkpoint"
        )
    waiting = sorted(r for r, (_, text) in reasons.items() if any(t in text.lower() for t in _NO_ANSWER))
    if waiting:
        absent = [rank for rank in range(workers) if rank not in reasons] or waiting
        return TrainingError(
            f"training worker {_ranks(absent)} did not answer within execution.collective_timeout_s{where}, while "
            f"{_ranks(waiting)} waited: look at its machine, then run again to go on from the last checkpoint"
        )
    for _, text in reasons.values():
        if text:
            return TrainingError(f"a training worker failed{where}: {text}")
    return TrainingError(f"training failed{where}: {error}")


def what_failed(failures: Mapping[int, Exception]) -> str:
    """Which workers are dead, or else what the first one raised; a death makes others fail that only waited."""
    dead = _dead(failures)
    if dead:
        return f"training worker {_ranks(dead)} died"
    rank = min(failures)
    return f"training worker {rank} failed: {reason(failures[rank])[1][:300]}"


def _dead(failures: Mapping[int, Exception]) -> list[int]:
    return sorted(rank for rank, failure in failures.items() if "Actor" in type(reason(failure)[0]).__name__)


def reason(failure: Exception) -> tuple[BaseException, str]:
    """What a worker raised, and its last line."""
    seen = getattr(failure, "health_check_failure", failure)  # how Ray Train tells of a worker that died
    cause: BaseException = seen
    if "Actor" not in type(seen).__name__:
        cause = getattr(seen, "cause", None) or getattr(seen, "__cause__", None) or seen
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    return cause, re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]) if lines else ""


def _ranks(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))
