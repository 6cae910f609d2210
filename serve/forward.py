"""What the one working thread of a replica does: open checkpoints, run forward passes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve.settings import HostedModel, ServingSettings
from serve.work import Answer, Work
from sftfilter.models import weights_hash

if TYPE_CHECKING:
    from sftfilter.engine import Engine


class BrokenCheckpointError(Exception):
    """This checkpoint cannot be served; others can."""


@dataclass(frozen=True)
class Vocabulary:
    """The token ids that end and pad a sequence, shared by all students of an endpoint."""

    stop_id: int
    pad_id: int


def use_threads(threads: int | None) -> None:
    """Threads of a forward pass; None takes the cores this process may run on."""
    import torch

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def open_checkpoint(model: HostedModel, settings: ServingSettings, vocabulary: Vocabulary) -> Engine:
    """Read a checkpoint into memory.

    Raises:
        BrokenCheckpointError: its files are not those that `model_hash` names, or cannot be read.
    """
    from transformers.utils import logging

    from sftfilter.engine import Engine

    logging.disable_progress_bar()
    try:
        found = weights_hash(model.folder)
        if found != model.model_hash:
            raise BrokenCheckpointError(f"its files have hash {found}, expected {model.model_hash}")
        return Engine(
            model.folder,
            stop_id=vocabulary.stop_id,
            pad_id=vocabulary.pad_id,
            dtype=settings.dtype,
            device="cuda" if settings.use_gpu else "cpu",
            max_batch=settings.max_batch,
        )
    except Exception as error:  # readers of broken files raise a dozen unrelated types
        raise BrokenCheckpointError(f"model '{model.id}': its checkpoint cannot be loaded: {brief(error)}") from error


def answer_all(engine: Engine, works: list[Work]) -> list[list[Answer]]:
    """Answers in the order of the works, from as few passes as their number allows."""
    wanted = [(i, request) for i, work in enumerate(works) for request in work.sequences]
    writing = [request for _, request in wanted if request.max_tokens > 0]
    written = iter(engine.generate(writing)) if writing else iter(())
    drafts: list[Answer] = []
    for _, request in wanted:
        new = next(written) if request.max_tokens > 0 else None
        drafts.append(Answer(new.ids, new.finish_reason) if new else Answer([], "length"))
    _add_logprobs(engine, [(works[i], request.prompt_ids) for i, request in wanted], drafts)
    answers: list[list[Answer]] = [[] for _ in works]
    for (i, _), draft in zip(wanted, drafts, strict=True):
        answers[i].append(draft)
    return answers


def _add_logprobs(engine: Engine, asked: list[tuple[Work, list[int]]], drafts: list[Answer]) -> None:
    starts = {
        k: 1 if work.logprobs == "all" else len(prompt)
        for k, (work, prompt) in enumerate(asked)
        if work.logprobs != "none"
    }
    sequences = [asked[k][1] + drafts[k].ids for k in starts]
    scored = engine.token_logprobs(sequences, list(starts.values())) if starts else []
    for k, values in zip(starts, scored, strict=True):
        drafts[k] = Answer(drafts[k].ids, drafts[k].finish_reason, values)


def brief(error: Exception) -> str:
    """An exception in one line."""
    if isinstance(error, BrokenCheckpointError):
        return str(error)
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no message'}"
