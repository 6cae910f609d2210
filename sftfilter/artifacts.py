"""Content-addressed stage results.

An artifact's folder is named by its stage and the hash of (stage version, resolved settings, input keys). It is
written under a temporary name, its marker last, and renamed into place: a folder with a marker is complete, and a
stage whose folder is there is not run again. Several processes may build the same artifact; the first one wins.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.config import stable_hash
from sftfilter.disk import disk_errors
from sftfilter.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MARKER = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """A finished stage: `path` holds its files, `meta` what the stage wished to remember (counts, hashes, seconds)."""

    stage: str
    key: str
    path: Path
    meta: Mapping[str, Any]
    reused: bool

    def table(self, name: str) -> pa.Table:
        """The Parquet table `name` of this artifact."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path / f"{name}.parquet")


class Store:
    """The artifacts below one folder, which must be shared by all nodes that take part."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)

    def key(self, stage: str, version: int, settings: Any, inputs: Mapping[str, str]) -> str:
        """The key under which a stage with these settings and inputs is kept."""
        return stable_hash({"stage": stage, "version": version, "settings": settings, "inputs": dict(inputs)})

    def find(self, stage: str, key: str) -> Artifact | None:
        """The finished artifact, or None."""
        path = self.root / f"{stage}-{key}"
        try:
            meta = json.loads((path / MARKER).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except json.JSONDecodeError as error:
            raise DataError(f"{path / MARKER}: not valid JSON; delete the folder {path} and run again") from error
        return Artifact(stage, key, path, meta, reused=True)

    def begin(self, stage: str, key: str) -> Path:
        """A temporary folder to write the artifact into. Leftovers of killed runs are removed on the way."""
        with disk_errors(self.root):
            for stale in self.root.glob(f".{stage}-{key}.*"):
                if not _alive(stale):
                    shutil.rmtree(stale, ignore_errors=True)
            return Path(tempfile.mkdtemp(prefix=f".{stage}-{key}.{_host()}.{os.getpid()}.", dir=self.root))

    def commit(self, folder: Path, stage: str, key: str, meta: Mapping[str, Any]) -> Artifact:
        """Write the marker and move the folder into place; answers what somebody else put there first, if they did."""
        path = self.root / f"{stage}-{key}"
        with disk_errors(self.root):
            _to_disk(folder)
            with open(folder / MARKER, "w") as marker:
                json.dump(dict(meta), marker, indent=2, sort_keys=True)
                marker.flush()
                os.fsync(marker.fileno())
            folder.chmod(0o755)
            while not _moved(folder, path):
                first = self.find(stage, key)
                if first:
                    shutil.rmtree(folder, ignore_errors=True)
                    return first
                _clear(path)
        return Artifact(stage, key, path, dict(meta), reused=False)

    def build(
        self,
        stage: str,
        *,
        version: int,
        settings: Any,
        inputs: Mapping[str, str],
        make: Callable[[Path], Mapping[str, Any]],
        final: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    ) -> Artifact:
        """The artifact, made by `make(folder)` unless it is there already.

        Args:
            final: whether what is there, by its meta, will do. If not it is made again beside the old one, which keeps
                its key for whatever was made from it.
        """
        attempt = 0
        while True:
            tried = {"attempt": attempt, "settings": settings} if attempt else settings
            key = self.key(stage, version, tried, inputs)
            found = self.find(stage, key)
            if found is None:
                break
            if final(found.meta):
                return found
            attempt += 1
        folder = self.begin(stage, key)
        try:
            with disk_errors(self.root):
                meta = make(folder)
            return self.commit(folder, stage, key, meta)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_table(folder: Path, name: str, table: pa.Table) -> None:
    """Write `name`.parquet into an artifact's folder."""
    import pyarrow.parquet as pq

    # Row groups are the pieces in which later stages share out and read a table.
    pq.write_table(table, folder / f"{name}.parquet", compression="zstd", row_group_size=16_384)


def _to_disk(folder: Path) -> None:
    """Wait until every file is on the disk: one that fails, or a server's that is full, may say so only now."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _moved(folder: Path, path: Path) -> bool:
    """Move a folder into place, unless another one with files in it is there."""
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _clear(path: Path) -> None:
    """Remove a folder that has lost its marker, by a copy that was cut short say, and so is nobody's result."""
    # `begin` finds it by its name, if this process is killed.
    aside = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):  # somebody else has just done the same
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _host() -> str:
    return os.uname().nodename.replace(".", "_")


def _alive(folder: Path) -> bool:
    """Whether the process that began a temporary folder still runs (always assumed for another host's)."""
    host, pid = folder.name.split(".")[-3:-1]
    return host != _host() or Path(f"/proc/{pid}").exists()
