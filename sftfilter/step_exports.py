"""Checkpoints of an arm at steps in between, each a model like the finished student, so that a trait is a curve.

Weights are copied, and written by a thread while training goes on. Each folder appears whole, under its step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sftfilter.checkpoint import merged_weights, write_model
from sftfilter.models import weights_hash
from sftfilter.step_asking import FACTS, RATES, step_folder, wait_for_rates
from sftfilter.training_settings import Exports

if TYPE_CHECKING:
    import torch

    from sftfilter.chat_format import ChatFormat


class StepExports:
    """The first worker's.

    Args:
        folder: of all exports.
        key: the student's; what an interrupted run left under it is kept.
    """

    def __init__(
        self, wanted: Exports, folder: Path, key: str, chat: ChatFormat, precision: Literal["bf16", "fp32"]
    ) -> None:
        self.wanted, self.chat = wanted, chat
        self._at = partial(step_folder, folder, key)
        self.folder = folder / key
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
        """Put the exports into the student's folder; answers step, loss and hash of each, and its rates if it was asked.

        They also stay where they are, for a run that is killed before the student is whole.
        """
        self.finish()
        self._writer.shutdown()
        if self.wanted.keep and self.wanted.by_trait:
            wait_for_rates()
            self._keep_best()
        for path in self._whole():
            shutil.copytree(path, student / "steps" / path.name, copy_function=_link)
        return [self._facts(path) for path in self._whole()]

    def _write(self, model: Any, weights: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> None:
        whole = self._at(facts["step"])
        partial = whole.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_model(model, weights, self.chat, partial)
        (partial / FACTS).write_text(json.dumps(facts | {"model_hash": weights_hash(partial)}))
        shutil.rmtree(whole, ignore_errors=True)  # a run that was interrupted may have come further
        partial.rename(whole)
        if self.wanted.keep and not self.wanted.by_trait:
            self._keep_best()

    def _keep_best(self) -> None:
        """Remove all but the best; one that could not be asked is the worst, and the later of two equals goes."""
        metric = self.wanted.metric
        found = [(self._facts(path), path) for path in self._whole()]
        values = [(facts.get("rates", {}) if self.wanted.by_trait else facts).get(metric) for facts, _ in found]
        ranked = sorted(
            zip(values, (path for _, path in found), strict=True), key=lambda one: (one[0] is None, one[0] or 0.0)
        )
        for _, worse in ranked[self.wanted.keep :]:
            shutil.rmtree(worse)

    def _whole(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*") if path.name.isdecimal())

    @staticmethod
    def _facts(path: Path) -> dict[str, Any]:
        facts = json.loads((path / FACTS).read_text())
        rates = path / RATES
        return facts | ({"rates": json.loads(rates.read_text())} if rates.exists() else {})


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
