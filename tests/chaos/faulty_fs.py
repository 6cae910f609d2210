"""A file system in user space that passes everything through, and fails or waits when it is told to.

`python -m tests.chaos.faulty_fs BEHIND MOUNTPOINT CONTROL`, where CONTROL is a JSON file: `{"errno": 5}` fails whatever
writes, `{"delay_s": 0.05}` makes it wait; `{}` neither.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH115, PTH208, PTH211
from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import mfusepy as fuse  # pyright: ignore[reportMissingImports]


class Faulty(fuse.Operations):
    """Paths below one folder."""

    use_ns = True

    def __init__(self, behind: str, control: str) -> None:
        self.behind, self.control = behind, Path(control)
        self._read_at, self._faults = 0, {}

    def at(self, path: str) -> str:
        """Where it really lies."""
        return self.behind + path

    def trouble(self) -> None:
        """Fail or wait, as the control file says now."""
        changed = self.control.stat().st_mtime_ns
        if changed != self._read_at:
            self._read_at, self._faults = changed, json.loads(self.control.read_text())
        time.sleep(self._faults.get("delay_s", 0))
        if "errno" in self._faults:
            raise fuse.FuseOSError(self._faults["errno"])

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        st = os.lstat(self.at(path))
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks")
        times = {f"st_{t}": getattr(st, f"st_{t}_ns") for t in ("atime", "mtime", "ctime")}
        return {name: getattr(st, name) for name in names} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self.at(path))]

    def readlink(self, path: str) -> str:
        return os.readlink(self.at(path))

    def access(self, path: str, amode: int) -> int:
        if not os.access(self.at(path), amode):
            raise fuse.FuseOSError(13)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        st = os.statvfs(self.at(path))
        names = "f_bavail f_bfree f_blocks f_bsize f_favail f_ffree f_files f_flag f_frsize f_namemax"
        return {name: getattr(st, name) for name in names.split()}

    def open(self, path: str, flags: int) -> int:
        return os.open(self.at(path), flags & ~os.O_DIRECT)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    # Whatever changes something.

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self.trouble()
        return os.open(self.at(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.trouble()
        try:
            return os.pwrite(fh, data, offset)
        except OSError:  # opened to append only: the kernel has given the offset
            return os.write(fh, data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self.trouble()
        os.truncate(self.at(path), length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self.trouble()
        os.fsync(fh)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self.trouble()
        os.mkdir(self.at(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        self.trouble()
        os.rmdir(self.at(path))
        return 0

    def unlink(self, path: str) -> int:
        self.trouble()
        os.unlink(self.at(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        self.trouble()
        os.rename(self.at(old), self.at(new))
        return 0

    def symlink(self, target: str, source: str) -> int:
        self.trouble()
        os.symlink(source, self.at(target))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self.trouble()
        os.chmod(self.at(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self.at(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int]) -> int:
        os.utime(self.at(path), ns=times)
        return 0


if __name__ == "__main__":
    fuse.FUSE(Faulty(sys.argv[1], sys.argv[3]), sys.argv[2], foreground=True, nothreads=False, allow_other=False)
