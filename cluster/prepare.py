"""Set-up after the installation: convert the built-in model, and build what DeepSpeed would compile on first use.

Run by `make setup` and by the image. Everything lands in the cache folder (`$SFTFILTER_CACHE`) and is done once.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from sftfilter.errors import MachineError, SftfilterError
from sftfilter.extension_lock import await_builds, extensions_dir
from sftfilter.models import ensure_builtin
from sftfilter.sentence_encoder import BUILTIN_ENCODER, resolve_encoder

_BUILD = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as Builder; Builder().load(verbose=False)"
_BUILD_S = 600
"""Compiling takes about 50 s; one that takes this long hangs."""


def build_extensions(folder: Path, limit_s: float = _BUILD_S) -> None:
    """Compile DeepSpeed's shared-memory communication for CPU workers into `folder` (about 50 s, once).

    A process of its own does it, since neither the compiler nor torch's wait for another build has a time limit.

    Raises:
        MachineError: no compiler, it failed, or it did not end in time.
    """
    if shutil.which("g++") is None:
        raise MachineError("g++ is missing: DeepSpeed compiles one file; install it (Debian: `apt install g++`)")
    ninja = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    env = os.environ | {"TORCH_EXTENSIONS_DIR": str(folder), "PATH": ninja, "DEEPSPEED_LOG_LEVEL": "error"}
    for lock in await_builds(folder):
        print(f"removed a lock that a killed build left behind: {lock}")
    remedy = f"remove {folder} and try again; training works without it, but compiles on its first start"
    build = subprocess.Popen([sys.executable, "-c", _BUILD], env=env, start_new_session=True)  # noqa: S603
    try:
        code = build.wait(limit_s)
    except subprocess.TimeoutExpired as error:
        os.killpg(build.pid, signal.SIGKILL)  # the compiler with it
        build.wait()
        raise MachineError(f"DeepSpeed's extension was not built within {limit_s:g} s; {remedy}") from error
    if code != 0:
        raise MachineError(f"DeepSpeed's extension could not be built (see above); {remedy}")


def main() -> None:
    """Prepare this machine."""
    extensions = extensions_dir()
    try:
        print(f"model:      {ensure_builtin()}", flush=True)
        print(f"encoder:    {resolve_encoder(BUILTIN_ENCODER)}", flush=True)
        build_extensions(extensions)
        print(f"extensions: {extensions}")
    except SftfilterError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
