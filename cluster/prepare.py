"""Set-up after the installation: convert the built-in model, and build what DeepSpeed would compile on first use.

Run by `make setup` and by the image. Everything lands in the cache folder (`$SFTFILTER_CACHE`) and is done once.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from sftfilter.errors import MachineError, SftfilterError
from sftfilter.models import cache_dir, ensure_builtin
from sftfilter.sentence_encoder import BUILTIN_ENCODER, resolve_encoder


def build_extensions() -> None:
    """Compile DeepSpeed's shared-memory communication for CPU workers (about 50 s, once a cache folder)."""
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(cache_dir() / "torch_extensions"))
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # ninja
    if shutil.which("g++") is None:
        raise MachineError("g++ is missing: DeepSpeed compiles one file; install it (Debian: `apt install g++`)")
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)


def main() -> None:
    """Prepare this machine."""
    try:
        print(f"model:      {ensure_builtin()}")
        print(f"encoder:    {resolve_encoder(BUILTIN_ENCODER)}")
        build_extensions()
        print(f"extensions: {os.environ['TORCH_EXTENSIONS_DIR']}")
    except SftfilterError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
