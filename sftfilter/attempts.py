"""Work that kills its process is not tried for ever: attempts are counted in files, which outlive the process.

Ray starts a dead actor anew and repeats its task without end; a row that crashes a tokenizer, or a batch that takes
more memory than there is, would keep it at that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sftfilter.config import stable_hash
from sftfilter.disk import disk_errors
from sftfilter.errors import MachineError

MOST = 4


@contextmanager
def attempt(folder: Path, name: str, remedy: str) -> Iterator[None]:
    """Count an attempt for as long as the block has not ended.

    Args:
        folder: of this run, on a disk that all nodes share.
        name: what is attempted, as a person should read it.
        remedy: what a person can do when processes die of it.

    Raises:
        MachineError: as many processes as `MOST` have died in it.
    """
    mark = folder / stable_hash(name)
    with disk_errors(folder):
        with open(mark, "ab") as marks:
            died = marks.tell()
            marks.write(b".")
        if died >= MOST:
            raise MachineError(
                f"{died} worker processes died one after the other while {name}: out of memory, or a crash in native "
                f"code (the system's log says which): {remedy}"
            )
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
