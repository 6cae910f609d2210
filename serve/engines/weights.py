"""What lies in a replica's memory: a checkpoint, or a base with the adapters of its students, and their running batch."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serve.engines import Vocabulary
from serve.settings import HostedModel, ServingSettings
from sftfilter.checkpoint import ADAPTER_WEIGHTS
from sftfilter.config import file_hash
from sftfilter.models import weights_hash

if TYPE_CHECKING:
    from sftfilter.adapters import AdapterBank
    from sftfilter.decoder import Decoder
    from sftfilter.engine import Engine


class BrokenCheckpointError(Exception):
    """This checkpoint cannot be served; others can."""


class Weights:
    """One copy of a model's weights.

    Attributes:
        bank: the adapters on it; None where the weights are one student's own.
    """

    def __init__(self, engine: Engine, bank: AdapterBank | None) -> None:
        self.engine = engine
        self.bank = bank
        self.decoder: Decoder = engine.decoder(bank)

    def restart(self) -> None:
        """Give up everything that is being written."""
        self.decoder = self.engine.decoder(self.bank)


def use_threads(threads: int | None) -> None:
    """Threads of a forward pass; None takes the cores this process may run on."""
    import torch

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def open_weights(model: HostedModel, settings: ServingSettings, vocabulary: Vocabulary) -> Weights:
    """Read a model's own weights, or the base of its adapter, into memory.

    Raises:
        BrokenCheckpointError: the files are not those that the hash names, or cannot be read.
    """
    from transformers.utils import logging

    from sftfilter.adapters import AdapterBank
    from sftfilter.engine import Engine

    logging.disable_progress_bar()
    gc.collect()  # what was evicted just now lies in cycles of modules and hooks
    folder, expected = (
        (model.adapter.base_folder, model.adapter.base_hash) if model.adapter else (model.folder, model.model_hash)
    )
    try:
        found = weights_hash(folder)
        if found != expected:
            raise BrokenCheckpointError(f"the files in {Path(folder).name} have hash {found}, expected {expected}")
        engine = Engine(
            folder,
            stop_id=vocabulary.stop_id,
            pad_id=vocabulary.pad_id,
            dtype=settings.dtype,
            device="cuda" if settings.use_gpu else "cpu",
            max_batch=settings.max_batch,
            cache_gib=settings.cache_gib,
        )
        return Weights(engine, AdapterBank(engine.model) if model.adapter else None)
    except Exception as error:  # readers of broken files raise a dozen unrelated types
        raise _broken(model, error) from error


def open_adapter(model: HostedModel, weights: Weights, room: int, in_use: Sequence[str | None]) -> bool:
    """Have a model's adapter on its base, in place of the longest unused one if there is no room; False: all are used.

    Raises:
        BrokenCheckpointError: it cannot be read or belongs to another base.
    """
    from sftfilter.adapters import read_adapter

    assert weights.bank is not None and model.adapter is not None and model.adapter.folder is not None
    if model.id in weights.bank.weights:
        return True
    while len(weights.bank.weights) >= room:
        unused = next((name for name in weights.bank.weights if name not in in_use), None)
        if unused is None:
            return False
        weights.bank.drop(unused)
    try:
        if (found := file_hash(Path(model.adapter.folder) / ADAPTER_WEIGHTS)) != model.adapter.file_hash:
            raise BrokenCheckpointError(f"its adapter has hash {found}, expected {model.adapter.file_hash}")
        weights.bank.add(model.id, read_adapter(model.adapter.folder, weights.engine.model))
    except Exception as error:
        raise _broken(model, error) from error
    return True


def _broken(model: HostedModel, error: Exception) -> BrokenCheckpointError:
    return BrokenCheckpointError(f"model '{model.id}': its checkpoint cannot be loaded: {brief(error)}")


def brief(error: Exception) -> str:
    """An exception in one line."""
    if isinstance(error, BrokenCheckpointError):
        return str(error)
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no message'}"
