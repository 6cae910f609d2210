"""Checkpoints in between are asked for their traits while training goes on, as Ray Train's asynchronous validation.

Ray Train runs one validation at a time in a task of its own, and starts those again that a restart cut off. What is asked
is the exported model, not Ray's checkpoint, which only says that the step is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sftfilter import progress

if TYPE_CHECKING:
    from ray.train import Checkpoint, ValidationConfig, ValidationTaskConfig

FACTS = "step.json"
RATES = "rates.json"
"""Files of an export: what it is, and the rate of each trait once it was asked."""


class AskStep(Protocol):
    """Takes a checkpoint through the traits. It is sent to the task, so it holds names and settings only.

    Attributes:
        fingerprint: hash of whatever could change the rates.
    """

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, student: str, folder: str, model_hash: str) -> Mapping[str, float]:
        """Trait -> its rate."""
        ...


def step_folder(exports: Path, key: str, step: int) -> Path:
    """Where the export of a student at a step lies."""
    return exports / key / f"{step:08d}"


def validation(ask: AskStep, exports: Path, events: Path) -> ValidationConfig:
    """For the trainer. The task takes no CPU of its own: training may hold them all, and it only waits for answers."""
    from ray.train import ValidationConfig

    told: Any = partial(_ask_step, ask=ask, exports=str(exports), events=str(events))
    return ValidationConfig(fn=told, ray_remote_kwargs={"num_cpus": 0})


def request_rates(key: str, student: str, step: int) -> ValidationTaskConfig:
    """For `ray.train.report`, once the export of a step is written."""
    from ray.train import ValidationTaskConfig

    return ValidationTaskConfig(fn_kwargs={"key": key, "student": student, "step": step})


def _ask_step(
    checkpoint: Checkpoint, *, ask: AskStep, exports: str, events: str, key: str, student: str, step: int
) -> dict[str, Any]:
    """What the task does."""
    del checkpoint
    folder = step_folder(Path(exports), key, step)
    try:
        model_hash = json.loads((folder / FACTS).read_text())["model_hash"]
        rates = dict(ask(f"{student}@{step}", str(folder), model_hash))
    except Exception as error:
        progress.append(events, {"note": f"{student} could not be asked at step {step}: {error}"})
        raise
    partial_file = folder / f"{RATES}.partial"
    partial_file.write_text(json.dumps(rates))
    partial_file.replace(folder / RATES)
    progress.append(events, {"asked": student, "at": step, "rates": rates})
    return rates
