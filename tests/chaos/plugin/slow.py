"""A scorer of the user's own that takes its time and writes down what it is asked, so that it can be struck."""

from __future__ import annotations

import os
import time

import pyarrow as pa

LOG = "CHAOS_SCORED"
"""The variable that names the file; a line a call: the process id, then the rows' ids."""


class Slow:
    """Length of the completion, `delay` seconds a batch."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def score(self, batch: pa.Table) -> list[float]:
        """A number a row."""
        if log := os.environ.get(LOG):
            handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(handle, " ".join([str(os.getpid()), *batch["rollout_id"].to_pylist()]).encode() + b"\n")
            os.close(handle)
        time.sleep(self.delay)
        return [float(len(text)) for text in batch["completion"].to_pylist()]
