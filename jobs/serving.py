"""Job `serve`: host the students of a finished run, or write the config with which `serve deploy` does."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.kinds.serve import Serve
from jobs.service import Hosted, read_hosted
from serve.settings import API_KEY_VARIABLE, HostedModel, ServingSettings
from sftfilter.disk import disk_errors

if TYPE_CHECKING:
    from jobs.console import Stages

_PROCESS_GIB = 1.2
"""A replica without any checkpoint: Python, torch, transformers and Ray."""


def hosted_of(spec: Serve, root: Path) -> Hosted:
    """What a run can host.

    Raises:
        DataError: there is no such run, it trained nothing, or not what is asked for.
    """
    return read_hosted(root / spec.name, spec.models or [])


def run_serve(spec: Serve, root: Path, stages: Stages) -> Mapping[str, Any]:
    """Serve until Ctrl-C on the connected cluster."""
    from serve.host import host

    hosted = hosted_of(spec, root)
    say = stages.console.print
    given = os.environ.get(API_KEY_VARIABLE)
    key = given or secrets.token_urlsafe(32)
    with (
        host(hosted.models, spec.serving, hosted.tokenizer_folder, hosted.system_prompt, key, spec.name) as endpoint,
        _told(
            key, root / spec.name / "endpoint.token", bool(given)
        ) as where,  # last: a job that is refused writes none
    ):
        say(
            f"{endpoint.base_url}   token: {where}   page: {endpoint.base_url.removesuffix('/v1')}/docs", soft_wrap=True
        )
        for model in hosted.models:
            shared = " [dim]on the shared base[/]" if model.adapter and spec.serving.share_base else ""
            say(f"  {model.id}  [dim]{model.model_hash}[/]{shared}", soft_wrap=True)
        say(f"  at most {memory_budget_gib(hosted.models, spec.serving):.1f} GiB for each replica. Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)
        say("stopping")
    return {"base_url": endpoint.base_url, "models": [model.id for model in hosted.models]}


def write_config(spec: Serve, root: Path, file: Path) -> Path:
    """Write what `serve deploy` takes; answers the file with the token. Needs no cluster."""
    import yaml

    from jobs.run import worker_env
    from serve.deploy_config import deploy_config
    from serve.host import endpoint_config

    hosted = hosted_of(spec, root)
    given = os.environ.get(API_KEY_VARIABLE)
    token = file.with_suffix(".token")
    key = given or secrets.token_urlsafe(32)
    config = endpoint_config(
        hosted.models, spec.serving, hosted.tokenizer_folder, hosted.system_prompt, [key], spec.name
    )
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(deploy_config(config, worker_env()), sort_keys=False))
        _write_secret(token, key)
    return token


def memory_budget_gib(models: Sequence[HostedModel], settings: ServingSettings) -> float:
    """What a replica takes at most: checkpoints, adapters (they are also kept stacked), keys and values, the process."""
    shared = settings.share_base
    full = [m.adapter.base_folder if m.adapter and shared else m.folder for m in models]
    adapters = [m.adapter.folder for m in models if m.adapter and m.adapter.folder and shared]
    copies = min(settings.models_in_memory, len(set(full)))
    widening = 2.0 if settings.dtype in ("auto", "float32") else 1.0  # a bfloat16 file read as float32
    checkpoint = max(map(_weights_gib, full)) * widening
    adapter = max(map(_weights_gib, adapters), default=0.0) * widening * 2
    held = min(settings.adapters_in_memory, len(adapters))
    return _PROCESS_GIB + copies * (checkpoint + settings.cache_gib) + held * adapter


def _weights_gib(folder: str) -> float:
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / 2**30


@contextlib.contextmanager
def _told(key: str, file: Path, given: bool) -> Iterator[str]:
    """Where a person finds the token. A new one is written to a file that only its owner reads, and removed."""
    if given:
        yield f"${API_KEY_VARIABLE}"
        return
    with disk_errors(file.parent):
        _write_secret(file, key)
    try:
        yield str(file)
    finally:
        file.unlink(missing_ok=True)


def _write_secret(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text + "\n")
