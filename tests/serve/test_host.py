"""Starting and refusing to start. Runs after test_endpoint, whose endpoint must have left nothing behind."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest

from serve.host import host
from serve.settings import HostedModel, ServingSettings
from sftfilter.errors import DataError, MachineError, SftfilterError, SpecError
from tests.serve.conftest import API_KEY, SYSTEM

pytestmark = [pytest.mark.ray, pytest.mark.model]


def start(
    models: Sequence[HostedModel], folder: str, system: str = SYSTEM, key: str = API_KEY, name: str = "x", **fields: Any
) -> None:
    with host(models, ServingSettings(**fields), folder, system, key, name):
        pytest.fail("this must not start")


def serve_runs() -> bool:
    from ray.util.state import list_actors  # noqa: F401  (needs the dashboard; the client below does not)

    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False) is not None


def test_a_taken_port_is_named_before_anything_starts(cluster: None, builtin: str, models: list[HostedModel]) -> None:
    assert not serve_runs()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=rf"127\.0\.0\.1:{port}.*serving\.port"):
            start(models, builtin, port=port)
    assert not serve_runs()
