"""What some rows need and no dependency brings, put into .cache/chaos: libfaketime, libfuse3, its Python binding.

Nothing is installed. What cannot be fetched leaves a row that says so.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import REPOSITORY

TOOLS = REPOSITORY / ".cache" / "chaos"
CLOCK, FUSE, BINDING = "libfaketime.so.1", "usr/libfuse3.so.3", "mfusepy.py"
_WHEELS = ("libfaketime==3.0.1", "mfusepy==3.1.1")


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)


def main() -> None:
    """Fetch what is not there."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    if not (TOOLS / CLOCK).exists() or not (TOOLS / BINDING).exists():
        _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *_WHEELS)
        for wheel in TOOLS.glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                for name in packed.namelist():
                    if Path(name).name in (CLOCK, BINDING):
                        (TOOLS / Path(name).name).write_bytes(packed.read(name))
            wheel.unlink()
    if not (TOOLS / FUSE).exists():
        _run("apt-get", "download", "--quiet", "libfuse3-3")
        for package in TOOLS.glob("libfuse3*.deb"):
            _run("dpkg", "-x", package.name, "deb")
            package.unlink()
        (TOOLS / FUSE).parent.mkdir(exist_ok=True)
        for library in sorted(TOOLS.glob("deb/**/libfuse3.so.3.*")):
            library.replace(TOOLS / FUSE)


if __name__ == "__main__":
    main()
