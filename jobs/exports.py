"""A folder of files that a job exports, where none of an earlier run stays beside them as if it were of this one.

A hidden list beside the files says which of them are ours, as we left them: any other file there is somebody else's, and
so is one of ours that has been changed since. Both are left alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from sftfilter.disk import disk_errors

LIST = ".written.json"


class Exports:
    """The files of one folder.

    Attributes:
        before: name -> size and time of each file that earlier runs wrote.
        now: the same of those that this run has written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = _listed(folder / LIST)
        self.now: dict[str, list[int]] = {}

    def wrote(self, file: Path) -> None:
        """Put a file that is whole now on the list, at once: a run that is killed before its end leaves no stray."""
        self.now[file.name] = _stamp(file)
        self._keep(self.before | self.now)

    def finish(self) -> list[str]:
        """Remove what earlier runs wrote and this one did not; answers a line for people about each such file."""
        said = []
        for name in sorted(set(self.before) - set(self.now)):
            old = self.folder / name
            if not old.is_file():
                continue
            if _stamp(old) == self.before[name]:
                with disk_errors(self.folder):
                    old.unlink()
                said.append(f"{old} removed: an earlier run wrote it, and the spec no longer asks for it")
            else:
                said.append(f"{old} was changed since an earlier run wrote it, and stays: it is not of this run")
        self._keep(self.now)
        return said

    def _keep(self, files: dict[str, list[int]]) -> None:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f"{LIST}.partial"
            partial.write_text(json.dumps(files, indent=2))
            partial.replace(self.folder / LIST)


def _stamp(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _listed(path: Path) -> dict[str, list[int]]:
    try:
        listed = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    # A list that was tampered with must not reach beyond its folder.
    return {n: stamp for n, stamp in listed.items() if Path(n).name == n} if isinstance(listed, dict) else {}
