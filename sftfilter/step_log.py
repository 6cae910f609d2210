"""What the first worker tells of every optimizer step: a progress event for the console, values for the trackers."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sftfilter import progress
from sftfilter.tracking import Trackers
from sftfilter.training_settings import Tracking
from sftfilter.utilisation import StepFlops


class StepLog:
    """One arm's.

    Args:
        facts: of the arm, for trackers that keep settings.
        flops: what a token takes.
        rate: FLOP/s that the hardware reaches at products alone.
        done: steps that are done when the arm goes on.
    """

    def __init__(
        self,
        events: Path,
        curves: Path,
        tracking: Tracking,
        name: str,
        steps: int,
        facts: Mapping[str, Any],
        flops: StepFlops,
        rate: float,
        done: int,
    ) -> None:
        self.events, self.name, self.steps = events, name, steps
        self.flops, self.rate = flops, rate
        self.trackers = Trackers(tracking, curves, name, facts, self.note, done)
        self.tokens = 0
        self.began = time.monotonic()

    def note(self, text: str) -> None:
        """Something that a person should know."""
        progress.append(self.events, {"note": f"{self.name}: {text}"})

    def step(
        self,
        number: int,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        tokens: int,
        supervised: int,
        seconds: float,
        wait: float,
        spent: Mapping[str, float],
    ) -> None:
        """One step is done.

        Args:
            number: from 1.
            tokens: processed in the step, by all workers.
            supervised: those of them that the loss is taken on.
            seconds: that the step took.
            wait: seconds of them before its rows were there.
            spent: seconds of them by what they went to.
        """
        self.tokens += tokens
        rate = self.tokens / (time.monotonic() - self.began)
        mfu = self.flops.of(tokens, supervised) / seconds / self.rate if self.rate else 0.0
        event = {"arm": self.name, "step": number, "steps": self.steps, "loss": loss, "tokens_per_s": rate}
        event |= {"at": time.time(), "seconds": seconds, "data_wait_s": wait, "mfu": mfu}
        event |= {f"{what}_s": part for what, part in spent.items()}
        progress.append(self.events, event)
        self.trackers.log(
            number,
            {
                "loss": loss,
                "learning_rate": learning_rate,
                "grad_norm": grad_norm,
                "tokens_per_s": tokens / seconds,
                "mfu": mfu,
                "step_s": seconds,
                "data_wait_s": wait,
                **{f"{what}_s": part for what, part in spent.items()},
                "peak_memory_gib": peak_memory_gib(),
            },
        )

    def close(self) -> None:
        """The arm is done or stopped."""
        self.trackers.close()


def peak_memory_gib() -> float:
    """The most that this worker has held: on its GPU, or resident if it has none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
