"""A Ray cluster of the tests' own, and an endpoint on it: two healthy students, a truncated one and a swapped one."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.run import worker_env
from serve.host import Endpoint, host
from serve.settings import HostedModel, ServingSettings
from sftfilter.chat_format import ChatFormat
from sftfilter.models import ensure_builtin, load_tokenizer, weights_hash
from tests.serve.tiny import TinyStudents, make_ending, make_students

SYSTEM = "Be brief."
API_KEY = "a-token-for-tests"
APP = "tests"


@pytest.fixture(scope="session")
def builtin() -> str:
    """Folder of the built-in model."""
    return str(ensure_builtin())


@pytest.fixture(scope="session")
def chat_format(builtin: str) -> ChatFormat:
    """The format that every hosted model was trained with."""
    return ChatFormat(load_tokenizer(builtin), SYSTEM)


@pytest.fixture(scope="session")
def tiny(chat_format: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> TinyStudents:
    """Small students with random weights."""
    return make_students(tmp_path_factory.mktemp("students"), chat_format)


@pytest.fixture(scope="session")
def ending(tiny: TinyStudents, chat_format: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> HostedModel:
    """A small student whose likeliest next token is always the stop token."""
    return make_ending(tiny.full[0], chat_format, tmp_path_factory.mktemp("ending"))


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """Local Ray with two CPUs, its own folder and its own token; gone before other packages start theirs."""
    import ray
    from ray._private.authentication_test_utils import reset_auth_token_state

    kept = dict(os.environ)
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "HF_HUB_OFFLINE": "1"}
    reset_auth_token_state()  # Ray read the mode and the token when it was imported
    folder = tempfile.mkdtemp(prefix="srv-", dir="/tmp")
    try:
        ray.init(
            num_cpus=2,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": worker_env() | {"HF_HUB_OFFLINE": "1"}},
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(kept)
        reset_auth_token_state()


@pytest.fixture(scope="session")
def models(builtin: str, chat_format: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> list[HostedModel]:
    """`base` and `twin` answer; `truncated` cannot be read; `swapped` has other weights than it claims."""
    truncated = tmp_path_factory.mktemp("truncated")
    for file in Path(builtin).iterdir():
        (truncated / file.name).write_bytes(file.read_bytes()[: 1 << 20] if file.suffix == ".safetensors" else b"")
    shutil.copy(Path(builtin) / "config.json", truncated)
    real, broken = weights_hash(builtin), weights_hash(truncated)
    known = {
        "base": (builtin, real),
        "twin": (builtin, real),
        "truncated": (str(truncated), broken),
        "swapped": (builtin, "0" * 16),
    }
    return [
        HostedModel(id=name, folder=folder, model_hash=model_hash, format_hash=chat_format.hash)
        for name, (folder, model_hash) in known.items()
    ]


@pytest.fixture(scope="module")
def endpoint(cluster: None, builtin: str, models: list[HostedModel]) -> Iterator[Endpoint]:
    """The endpoint, with room for one model in memory, so that asking for two evicts."""
    settings = ServingSettings(port=0, models_in_memory=1, dtype="float32")
    with host(models, settings, builtin, SYSTEM, API_KEY, APP) as running:
        yield running
