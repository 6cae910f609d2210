"""What enters the first adapted layer, kept on disk: below it nothing is trained, so a row's states never change.

Arms, epochs and workers share the files. Each row is computed by itself, so that its states are the same bits whoever
needs it first and whatever else is in the batch: with the files or without them, a student is the same.
"""

from __future__ import annotations

import hashlib
import os
import socket
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sftfilter.llama_loss import states
from sftfilter.prefix_tree import Row, grow


class LowerStates:
    """States of rows of one base model at one layer.

    Args:
        model: a causal LM of a known family, whose layers below `first` are frozen and carry no adapter.
        first: the first layer that is trained.
        folder: where files are kept, one a row; None keeps nothing.
        limit: bytes that all workers may keep there, whichever arms they are of; what comes after is computed every time.
        workers: that share what is left of them.
    """

    def __init__(self, model: Any, first: int, folder: Path | None, limit: int, workers: int = 1) -> None:
        self.model, self.first = model, first
        self.left = max(0, limit - _bytes_below(folder)) // workers if folder else 0
        self.dtype: torch.dtype = model.model.embed_tokens.weight.dtype
        self.width: int = model.config.hidden_size
        self.folder = folder / f"layer{first}-{str(self.dtype).removeprefix('torch.')}" if folder else None
        self.computed = 0
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)

    def loss_sum(self, model: Any, rows: Sequence[Row], device: torch.device) -> Tensor:
        """As `packed.tree_loss_sum`, from the first trained layer on."""
        tree = grow(rows, device)
        starts = [0]
        for row in rows:
            starts.append(starts[-1] + len(row))
        at = torch.tensor([starts[row] + position for row, position in tree.origin])
        below = torch.cat([self.of(row) for row in rows]).index_select(0, at)
        return model(tree=tree, below=below.to(device), first=self.first)

    def of(self, row: Row) -> Tensor:
        """[len(row), width], mapped from its file if there is one."""
        count = len(row) * self.width
        path = (
            self.folder / hashlib.blake2b(array("q", row.ids).tobytes(), digest_size=16).hexdigest()
            if self.folder
            else None
        )
        if path and path.exists():
            return torch.from_file(str(path), shared=False, size=count, dtype=self.dtype).view(len(row), self.width)
        with torch.no_grad():
            made = states(self.model, grow([row], self.model.device), self.first).cpu()
        self.computed += 1
        size = count * made.element_size()
        if path and size <= self.left:
            self.left = self.left - size if _write_whole(path, made) else 0
        return made


def _bytes_below(folder: Path) -> int:
    """What arms before this one keep there, or this one before it was interrupted."""
    return sum(path.stat().st_size for path in folder.glob("*/*") if not path.name.startswith("."))


def _write_whole(path: Path, made: Tensor) -> bool:
    """Aside and renamed: another worker sees all of it or nothing. False where the disk takes no more."""
    aside = path.with_name(f".{path.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        aside.write_bytes(made.contiguous().view(torch.uint8).numpy().tobytes())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        return False
    return True
