"""What specs may say of the execution of a training, and what is said when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from sftfilter.train_failures import memory_knobs, readable
from sftfilter.training_settings import Execution


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"offload": "optimizer"}, "needs use_gpu: true"),
        ({"offload": "all", "use_gpu": True, "zero_stage": 2}, "needs zero_stage: 3, which shards parameters; it is 2"),
        ({"offload": "optimizer", "use_gpu": True, "zero_stage": 0}, "needs zero_stage 1, 2 or 3"),
        ({"workers": [4, 2]}, r"workers: \[4, 2\] has more at least than at most"),
        ({"workers": 0}, "greater than 0"),
    ],
)
def test_contradictions_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Execution.model_validate(wrong)


def test_elastic_workers() -> None:
    execution = Execution.model_validate({"workers": [2, 8]})
    assert (execution.fewest_workers, execution.most_workers) == (2, 8)
    fixed = Execution(workers=3)
    assert (fixed.fewest_workers, fixed.most_workers) == (3, 3)


def test_memory_knobs_leave_out_what_is_turned_already() -> None:
    for execution, second in (
        (Execution(), "gradient_checkpointing: true"),
        (Execution(gradient_checkpointing=True), "zero_stage: 3"),
        (Execution(gradient_checkpointing=True, zero_stage=3), "offload: all"),
    ):
        assert memory_knobs(execution) == f"lower execution.micro_batch_tokens (now 4096) or set execution.{second}"


def test_a_node_that_ran_low_on_memory_is_told_with_what_to_turn() -> None:
    from ray.exceptions import OutOfMemoryError

    error = OutOfMemoryError("3 worker(s) were killed due to the node running low on memory.")
    told = readable(error, 2, {"arm": "a", "step": 3, "steps": 9}, "lower this", None, Path())
    assert "(arm a, after step 3 of 9), since their node was running low on memory: lower this. Run again" in str(told)


def test_a_collective_that_timed_out_names_who_did_not_come() -> None:
    """As Ray Train tells it when gloo or NCCL gave up before our own watchdog."""

    class WorkerGroupError(Exception):
        worker_failures: ClassVar = {
            0: RuntimeError("[gloo/pair.cc] Timed out waiting 1000ms for recv operation to complete")
        }

    told = readable(WorkerGroupError(), 2, {"arm": "a", "step": 3, "steps": 9}, "knobs", None, Path())
    assert "worker 1 did not answer" in str(told)
    assert "(arm a, after step 3 of 9), while 0 waited" in str(told)
