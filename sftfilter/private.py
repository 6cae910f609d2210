"""Secrets: named in specs by variable or file, read where they are used, and blotted out of whatever is written."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftfilter.errors import MachineError

SECRET_LENGTH = 12
"""Shorter values are not blotted out: they are not worth guessing at, and too much else would go with them."""
_VARIABLE = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)S?(_?\d+)?$")
_remembered: dict[str, str] = {}
"""Secrets that this process was told of: value -> name. Only ever added to: text that holds one may come at any time."""
_FIELD = re.compile(
    r"(^|_)(api_?keys?|secrets?|passwords?|authori[sz]ation|credentials?|(access|private|secret)_?keys?)($|_)"
    r"|^(key|token|bearer)$|(^|_)(api|access|auth|session|bearer|refresh|security|hf|id)_?token$"
)
"""Names of fields that hold a secret, in small letters; `max_tokens`, `stop_token_ids`, `prompt_cache_key` hold none."""


def read_private_file(path: str | Path, what: str) -> str:
    """The secret in a file that only its owner may read.

    Args:
        what: whose secret it is, for the error.

    Raises:
        MachineError: the file is missing, empty, or open to others.
    """
    file = Path(path).expanduser()
    check_private(file, what)
    secret = file.read_text().strip()
    if not secret:
        raise MachineError(f"{what}: {file} is empty on {os.uname().nodename}")
    remember(secret, file.name)
    return secret


def check_private(file: Path, what: str) -> None:
    """Raise MachineError when a file is missing, unreadable, or readable by others than its owner (and its group's root).

    Secrets that Kubernetes mounts belong to root and are opened to the pod's group, which holds nobody else.
    """
    try:
        found = file.stat()
    except OSError as error:
        raise MachineError(f"{what}: {file}: {error.strerror} on {os.uname().nodename}") from error
    others = stat.S_IMODE(found.st_mode) & (stat.S_IRWXO if found.st_uid == 0 else stat.S_IRWXO | stat.S_IRWXG)
    if others:
        raise MachineError(
            f"{what}: others can read {file}: `chmod 600 {file}`, and give it a new secret if they may have"
        )
    if not os.access(file, os.R_OK):
        raise MachineError(f"{what}: {file} may not be read by this user on {os.uname().nodename}")


def remember(secret: str, name: str) -> None:
    """Blot a value out from now on, whatever the variable or file that it came from is called."""
    if len(secret) >= SECRET_LENGTH:
        _remembered[secret] = name


def remember_named(fields: Mapping[str, Any] | Sequence[Any]) -> None:
    """Remember what a spec's data names at any depth by `api_key_env` and `api_key_file`, so far as it is on this machine."""
    named = fields.items() if isinstance(fields, Mapping) else enumerate(fields)
    for key, value in named:
        if isinstance(value, Mapping | list | tuple):
            remember_named(value)
        elif isinstance(value, str) and str(key).endswith("api_key_env"):
            remember(os.environ.get(value, "").strip(), value)
        elif isinstance(value, str) and str(key).endswith("api_key_file"):
            with contextlib.suppress(OSError, UnicodeDecodeError):  # whoever needs it says what is wrong with it
                remember(Path(value).expanduser().read_text().strip(), Path(value).name)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with secrets replaced by their names: those remembered, and values of variables that are named like one."""
    known = {value: name for name, value in _named_like_secrets(os.environ if environment is None else environment)}
    for value, name in sorted((known | _remembered).items(), key=lambda item: -len(item[0])):
        text = text.replace(value, f"[{name}]")
    return text


def _named_like_secrets(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return (
        (name, value) for name, value in environment.items() if len(value) >= SECRET_LENGTH and _VARIABLE.search(name)
    )


def literal_secrets(fields: Mapping[str, Any] | Sequence[Any], where: str = "") -> list[str]:
    """Names of fields that look like a secret written out, at any depth."""
    named = fields.items() if isinstance(fields, Mapping) else enumerate(fields)
    found: list[str] = []
    for key, value in named:
        path = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping | list):
            found += literal_secrets(value, path)
        elif _FIELD.search(re.sub(r"[^a-z]+", "_", str(key).lower())) and isinstance(value, str) and value:
            found.append(path)
    return found
