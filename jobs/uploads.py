"""What a submission uploads: the files that Ray itself would pack, listed and measured before it refuses them."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sftfilter.errors import SpecError

SECRETS = (
    *(".env", ".env.*", "*.key", "*.pem", "*.token", ".envrc", ".netrc", ".git-credentials"),
    *("id_rsa", "id_ed25519", "id_ecdsa", ".aws", ".ssh", ".ray"),
)
"""Where people, and `sftfilter serve`, keep keys; whoever may submit can read what was uploaded."""
EXCLUDES = (".venv", ".git", "runs", ".cache", *SECRETS)
"""As a .gitignore writes them."""
_LISTED = 8
_MIB = 2**20


@dataclass(frozen=True)
class Upload:
    """Files below the working folder, the largest first, and the limit that Ray sets to their package."""

    root: Path
    files: Sequence[tuple[Path, int]]
    limit: int

    @property
    def size(self) -> int:
        """Bytes, before they are packed."""
        return sum(size for _, size in self.files)

    def listing(self) -> list[str]:
        """Lines for a person: how much, and the largest files."""
        lines = [f"uploads {len(self.files)} files, {_size(self.size)}, of {self.root}"]
        lines += [f"  {_size(size):>9}  {path}" for path, size in self.files[:_LISTED]]
        rest = self.files[_LISTED:]
        if rest:
            lines.append(f"  {_size(sum(size for _, size in rest)):>9}  in {len(rest)} more")
        return [*lines, f"  left out: {', '.join(EXCLUDES)}, and what .gitignore and .rayignore name"]

    def check(self) -> None:
        """Raise when Ray would refuse the package.

        Raises:
            SpecError: too large even when packed; names the largest files and the remedy.
        """
        if self.size < self.limit:  # a package is hardly ever larger than its files
            return
        packed = _packed(self.root)
        if packed < self.limit:
            return
        listing = "\n".join(self.listing())
        raise SpecError(
            f"{_size(packed)} to upload, and Ray takes less than {_size(self.limit)}:\n{listing}\nName what the job does "
            f"not read in {self.root / '.rayignore'} (written like a .gitignore), choose a smaller --working-dir, or put "
            "data on storage that the nodes share and name it there"
        )


def upload_of(root: Path) -> Upload:
    """What Ray would pack of a folder: its rules, .gitignore and .rayignore included."""
    # Ray's own functions, so that the list is true; a test compares it with what arrives.
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _dir_travel, _get_excludes

    found: list[tuple[Path, int]] = []

    def note(path: Path) -> None:
        if path.is_file():
            found.append((path.relative_to(root), path.stat().st_size))

    quiet = logging.getLogger("jobs.uploads")
    _dir_travel(root, [_get_excludes(root, list(EXCLUDES))], note, include_gitignore=True, logger=quiet)
    return Upload(root, sorted(found, key=lambda entry: (-entry[1], str(entry[0]))), GCS_STORAGE_MAX_SIZE)


def _packed(root: Path) -> int:
    from ray._private.runtime_env.packaging import create_package

    with tempfile.TemporaryDirectory() as aside:
        package = Path(aside) / "package.zip"
        create_package(str(root), package, include_gitignore=True, excludes=list(EXCLUDES), logger=_quiet())
        return os.path.getsize(package)  # noqa: PTH202


def _quiet() -> logging.Logger:
    logger = logging.getLogger("jobs.uploads")
    logger.setLevel(logging.ERROR)
    return logger


def _size(count: float) -> str:
    return f"{count / _MIB:.1f} MiB" if count >= _MIB else f"{count / 1024:.1f} KiB"
