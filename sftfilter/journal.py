"""Answers that were paid for, kept line by line as they arrive: a killed job never asks for the same one twice.

Each process appends to a JSONL file of its own below one shared folder, so that no two ever write to the same file.
A line is `{"key": ..., "value": ...}`. It leaves the process at once: what a killed process wrote is there, save for a
last line that it could not finish, which readers pass over.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from sftfilter.disk import disk_errors

_START = b'{"key":"'
_HEX = 16
_PLACE_BITS = 40
"""A place is the file's number and the line's offset in it: files may be up to a terabyte long."""


def journal_folder(root: Path, identity: str) -> Path:
    """Where the answers of one endpoint lie, below a store's root."""
    return root / "journal" / identity


class Journal:
    """Look up by key what any process kept before this one began, and keep what arrives.

    The index takes 16 bytes for a line that was there before, a small object for one that arrived; answers stay on disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._files = sorted(folder.glob("*.jsonl"))
        self._keys, self._places = _index(self._files)
        self._own = folder / f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._added: dict[str, int] = {}
        self._sink: IO[bytes] | None = None

    def __len__(self) -> int:
        """Keys with a value."""
        return len(self._keys) + len(self._added)

    def get(self, key: str) -> Any | None:
        """The value kept under a key (16 hexadecimal digits), or None."""
        if key in self._added:
            return _read(self._own, self._added[key])
        number = int(key, 16)
        at = int(np.searchsorted(self._keys, np.uint64(number)))
        if at == len(self._keys) or int(self._keys[at]) != number:
            return None
        place = int(self._places[at])
        return _read(self._files[place >> _PLACE_BITS], place & (1 << _PLACE_BITS) - 1)

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a value.

        Raises:
            MachineError: the disk is full or the folder cannot be written to.
        """
        line = _START + key.encode() + b'","value":' + json.dumps(value, ensure_ascii=False).encode() + b"}\n"
        with disk_errors(self.folder):
            if self._sink is None:
                self._sink = open(self._own, "xb", buffering=0)  # noqa: SIM115 (open as long as the journal is)
            start = self._sink.tell()
            try:
                while line:  # a disk that is nearly full takes a part
                    line = line[self._sink.write(line) :]
            except OSError:
                with contextlib.suppress(OSError):  # or the next value would be added to half a line
                    self._sink.truncate(start)
                    self._sink.seek(start)
                raise
        self._added[key] = start

    def close(self) -> None:
        """Close the file written to."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None


def _read(path: Path, offset: int) -> Any | None:
    """The value of a line, or None where the line is damaged: then it is asked for again."""
    with open(path, "rb") as file:
        file.seek(offset)
        try:
            return json.loads(file.readline())["value"]
        except ValueError:
            return None


def _index(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys and their places, uint64 [N] each; of several lines with one key, any serves."""
    keys, places = array("Q"), array("Q")
    for number, path in enumerate(files):
        for key, offset in _lines(path):
            keys.append(key)
            places.append(number << _PLACE_BITS | offset)
    found = np.frombuffer(keys, np.uint64) if keys else np.empty(0, np.uint64)
    where = np.frombuffer(places, np.uint64) if places else np.empty(0, np.uint64)
    found, first = np.unique(found, return_index=True)
    return found, where[first]


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """Key and offset of every whole line."""
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            if line.startswith(_START) and line.endswith(b"}\n"):
                yield int(line[len(_START) : len(_START) + _HEX], 16), offset
            offset += len(line)
