"""What rank 0 alone can know, on every rank: its clock, its files, its threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

_LOOK_S = 0.2


def agree(value: bool) -> bool:
    """Rank 0's word, on every rank."""
    answer = [value]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]


def agree_on(numbers: Sequence[int], device: torch.device) -> list[int]:
    """Rank 0's numbers, on every rank; quick enough for every step."""
    told = torch.tensor([*numbers], dtype=torch.int64, device=device)
    dist.broadcast(told, src=0)
    return told.tolist()


def wait_until(done: Callable[[], bool], device: torch.device, beat: Callable[[], None]) -> None:
    """Until it is done on rank 0, however long that takes; no collective lasts as long.

    Args:
        beat: called while waiting, on every rank.
    """
    while not agree_on([done()], device)[0]:
        beat()
        time.sleep(_LOOK_S)
