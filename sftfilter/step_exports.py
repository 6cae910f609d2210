"""Checkpoints of an arm at steps in between, each a model like the finished student, so that a trait is a curve.

Weights are copied, and written by a thread while training goes on. Each folder appears whole, under its step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.checkpoint import write_model
from sftfilter.models import weights_hash
from sftfilter.step_asking import FACTS, step_folder
from sftfilter.step_ranking import add_exports, best_exports, whole_exports
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

    def __init__(self, wanted: Exports, folder: Path, key: str, chat: ChatFormat) -> None:
        self.wanted, self.chat = wanted, chat
        self._at = partial(step_folder, folder, key)
        self.folder = folder / key
        self._writer = ThreadPoolExecutor(1, "export")
        self._pending: Future[int] | None = None

    @property
    def writing(self) -> bool:
        """Whether a copy is being written."""
        return self._pending is not None and not self._pending.done()

    @property
    def written(self) -> bool:
        """Whether a copy has been written since the last `finish`."""
        return self._pending is not None and self._pending.done()

    def is_whole(self, step: int) -> bool:
        """Whether the export of a step is there."""
        return (self._at(step) / FACTS).exists()

    def start(self, model: Any, weights: Mapping[str, torch.Tensor], step: int, losses: list[float]) -> None:
        """Begin to write weights that nobody changes; those before must have been written."""
        self.finish()
        since = losses[-self.wanted.every_steps :]
        facts = {"step": step, "loss": sum(since) / len(since)}
        self._pending = self._writer.submit(self._write, model, weights, facts)

    def finish(self) -> int:
        """Wait for what is being written; answers its step, 0 if there is none. Raises what went wrong with it."""
        if self._pending is None:
            return 0
        pending, self._pending = self._pending, None
        return pending.result()

    def copy_into(self, student: Path) -> list[dict[str, Any]]:
        """Put the exports into the student's folder; answers step, loss and hash of each, and its rates if it was asked.

        They also stay where they are, for a run that is killed before the student is whole.
        """
        self.finish()
        self._writer.shutdown()
        return add_exports(whole_exports(self.folder), student)

    def _write(self, model: Any, weights: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> int:
        whole = self._at(facts["step"])
        partial = whole.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_model(model, weights, self.chat, partial)
        (partial / FACTS).write_text(json.dumps(facts | {"model_hash": weights_hash(partial)}))
        shutil.rmtree(whole, ignore_errors=True)  # a run that was interrupted may have come further
        partial.rename(whole)
        if not self.wanted.by_trait:
            there = whole_exports(self.folder)
            for worse in set(there) - set(best_exports(there, self.wanted)):
                shutil.rmtree(worse)
        return facts["step"]
