"""Refusing to start. Runs after test_endpoint, whose endpoint must have left nothing behind."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest

from serve.host import host
from serve.settings import HostedModel, ServingSettings
from sftfilter.errors import DataError, MachineError, SpecError
from tests.serve.conftest import API_KEY, SYSTEM

pytestmark = [pytest.mark.ray, pytest.mark.model]


def start(
    models: Sequence[HostedModel], folder: str, system: str = SYSTEM, key: str = API_KEY, name: str = "x", **fields: Any
) -> None:
    with host(models, ServingSettings(**fields), folder, system, key, name):
        pytest.fail("this must not start")


def serve_runs() -> bool:
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False) is not None


def test_a_taken_port_is_named_before_anything_starts(cluster: None, builtin: str, models: list[HostedModel]) -> None:
    assert not serve_runs()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=rf"127\.0\.0\.1:{port}.*serving\.port"):
            start(models, builtin, port=port)
    assert not serve_runs()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_an_open_endpoint_on_a_public_address_is_refused(builtin: str, models: list[HostedModel], address: str) -> None:
    with pytest.raises(SpecError, match="set an API key"):
        start(models, builtin, key="", host=address)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a#b", "-x"])
def test_a_name_that_is_no_path_part_is_refused(builtin: str, models: list[HostedModel], name: str) -> None:
    with pytest.raises(SpecError, match="part of the URL"):
        start(models, builtin, name=name)


def test_double_ids_are_refused(builtin: str, models: list[HostedModel]) -> None:
    with pytest.raises(SpecError, match="every id once"):
        start([models[0], models[0]], builtin)


def test_another_system_prompt_than_in_training_is_refused(
    cluster: None, builtin: str, models: list[HostedModel]
) -> None:
    with pytest.raises(DataError, match=models[0].format_hash):
        start(models, builtin, system="Something else.")
    assert not serve_runs()
