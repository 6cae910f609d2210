"""A disk that is full, read-only or failing, told as what it is: where, how much is free there, and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sftfilter.errors import MachineError, SftfilterError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
CLOSED = frozenset({errno.EROFS, errno.EACCES})
FAILING = frozenset({errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO})
_NUMBERED = re.compile(r"(?:os error|\[errno) (\d+)", re.IGNORECASE)
"""How Rust (safetensors, polars) and Arrow write an error's number into their text."""
_TORN = ("PytorchStreamWriter failed writing", "unexpected pos")
"""What torch says when a write falls short; it does not say why."""
_LITTLE = 64 * 2**20
_PROBE = 2**20


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a disk is to blame for, whichever library met it, into an error that names the folder and the remedy.

    Args:
        folder: what the block writes to.

    Raises:
        MachineError: the disk is full, may not be written to, or fails.
    """
    try:
        yield
    except SftfilterError:
        raise
    except Exception as error:
        told = disk_error(error, folder)
        if told is None:
            raise
        raise told from error


def disk_error(error: BaseException, folder: Path) -> MachineError | None:
    """The same of an error that came from elsewhere, a worker say; None where no disk is to blame."""
    found = _fault(error, folder)
    if found is None:
        return None
    number, where = found
    place = _place(number, where, folder)
    reason, left = os.strerror(number), _left(place)
    here = place != Path(tempfile.gettempdir())
    elsewhere = "set `results` to another disk" if here else "set TMPDIR to another disk"
    if number in FULL:
        return MachineError(
            f"no space left while writing to {place} ({left}): free some space or {elsewhere}, then run again; "
            "finished stages are kept"
        )
    if number == errno.EACCES:
        return MachineError(f"cannot write to {place}: {reason}; set `results` to a folder you own")
    cause = "the system closes a disk that has errors" if number == errno.EROFS else "it, or the way to it, is failing"
    return MachineError(
        f"cannot write to {place}: {reason} ({left}); {cause}, see `dmesg`: mend it or {elsewhere}, then run again; "
        "finished stages are kept"
    )


def _fault(error: BaseException, folder: Path) -> tuple[int, str | None] | None:
    """Number of the first disk's error in the chain of causes, and the file if it is told."""
    seen: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in seen:
        seen.append(now)
        number = now.errno if isinstance(now, OSError) else None
        told = getattr(now, "filename", None)
        if number is None and (match := _NUMBERED.search(str(now))):
            number = int(match[1])
        if number is not None and number in FULL | FAILING | {errno.EROFS}:
            return number, told if isinstance(told, str) else None
        if number is not None and number == errno.EACCES and (told is None or Path(str(told)).is_relative_to(folder)):
            return number, None
        if any(sign in str(now) for sign in _TORN) and (number := _probe(folder)):
            return number, None
        inner = getattr(now, "cause", None)  # Ray's wrapping
        now = inner if isinstance(inner, BaseException) else now.__cause__ or now.__context__
    return None


def _probe(folder: Path) -> int | None:
    """What the disk says to a write right now."""
    for place in (folder, Path(tempfile.gettempdir())):
        try:
            with tempfile.TemporaryFile(dir=_existing(place)) as probe:
                probe.write(bytes(_PROBE))
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            return error.errno
    return None


def _place(number: int, where: str | None, folder: Path) -> Path:
    """The folder at fault: what was being written, or the temporary one where that is the one without room."""
    if where and Path(where).is_absolute() and not Path(where).is_relative_to(folder):
        return Path(where).parent
    temp = Path(tempfile.gettempdir())
    if number in FULL and _free(temp) < _LITTLE <= _free(folder):
        return temp
    return folder


def _free(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(_existing(folder)).free
    return 0


def _left(folder: Path) -> str:
    """Free space in words; files that can still be made where there are none."""
    with contextlib.suppress(OSError):
        found = os.statvfs(_existing(folder))
        if found.f_files and not found.f_favail:
            return "no more files can be made there"
    return f"{_free(folder) / 2**30:.2f} GiB free"


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
