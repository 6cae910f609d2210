"""What rank 0 alone can know, on every rank: its clock, its files, its threads."""

from __future__ import annotations

import torch
import torch.distributed as dist


def agree(value: bool) -> bool:
    """Rank 0's word, on every rank."""
    answer = [value]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]


def agree_on(numbers: list[int], device: torch.device) -> list[int]:
    """Rank 0's numbers, on every rank; quick enough for every step."""
    told = torch.tensor(numbers, dtype=torch.int64, device=device)
    dist.broadcast(told, src=0)
    return told.tolist()
