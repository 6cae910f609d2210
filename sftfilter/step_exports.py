"""Checkpoints of an arm at steps in between, each a model like the finished student, so that a trait is a curve.

Weights are copied, and written by a thread while training goes on. Each folder appears whole, under its step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sftfilter.checkpoint import merged_weights, write_model
from sftfilter.models import weights_hash
from sftfilter.training_settings import Exports

if TYPE_CHECKING:
    import torch

    from sftfilter.chat_format import ChatFormat

FACTS = "step.json"


class StepExports:
    """The first worker's.

    Args:
        folder: that gets a folder for each step; what an interrupted run left there is kept.
    """

    def __init__(self, wanted: Exports, folder: Path, chat: ChatFormat, precision: Literal["bf16", "fp32"]) -> None:
        self.wanted, self.folder, self.chat = wanted, folder, chat
        self.precision: Literal["bf16", "fp32"] = precision
        self._writer = ThreadPoolExecutor(1, "export")
        self._pending: Future[None] | None = None

    def start(self, model: Any, step: int, losses: list[float]) -> None:
        """Copy whole (gathered) weights and begin to write them."""
        self.finish()
        weights = _copied(merged_weights(model, self.precision))
        since = losses[-self.wanted.every_steps :]
        facts = {"step": step, "loss": sum(since) / len(since)}
        self._pending = self._writer.submit(self._write, model, weights, facts)

    def finish(self) -> None:
        """Wait for what is being written; raises what went wrong with it."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def copy_into(self, student: Path) -> list[dict[str, Any]]:
        """Put the exports into the student's folder; answers step, loss and hash of each.

        They also stay where they are, for a run that is killed before the student is whole.
        """
        self.finish()
        self._writer.shutdown()
        for path in self._whole():
            shutil.copytree(path, student / "steps" / path.name, copy_function=_link)
        return [self._facts(path) for path in self._whole()]

    def _write(self, model: Any, weights: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> None:
        whole = self.folder / f"{facts['step']:08d}"
        partial = whole.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_model(model, weights, self.chat, partial)
        (partial / FACTS).write_text(json.dumps(facts | {"model_hash": weights_hash(partial)}))
        shutil.rmtree(whole, ignore_errors=True)  # a run that was interrupted may have come further
        partial.rename(whole)
        if self.wanted.keep:
            ranked = sorted(self._whole(), key=lambda path: self._facts(path)["loss"])
            for worse in ranked[self.wanted.keep :]:
                shutil.rmtree(worse)

    def _whole(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*") if path.name.isdecimal())

    @staticmethod
    def _facts(path: Path) -> dict[str, Any]:
        return json.loads((path / FACTS).read_text())


def _link(source: str, target: str) -> str:
    """Another name for the file where the file system can, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        return shutil.copy2(source, target)
    return target


def _copied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In the host's memory; tensors that are one stay one."""
    copies: dict[int, torch.Tensor] = {}
    for tensor in weights.values():
        if tensor.data_ptr() not in copies:
            copies[tensor.data_ptr()] = tensor.detach().to("cpu", copy=True)
    return {name: copies[tensor.data_ptr()] for name, tensor in weights.items()}
