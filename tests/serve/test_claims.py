"""Several jobs host endpoints on one cluster: none takes another's away, and what killed ones left is cleared away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from serve.claims import abandoned, private_name
from serve.host import _controlled, _shut_down, host
from serve.settings import HostedModel, ServingSettings
from sftfilter.errors import MachineError
from tests.serve.conftest import API_KEY, SYSTEM

pytestmark = [pytest.mark.ray, pytest.mark.model]

SETTINGS = ServingSettings(port=0, engine="null", cpus_per_replica=0)
# Hosts what it is told to, says what came of it, and goes on until its standard input ends.
OTHER_JOB = """
import json, sys
from contextlib import ExitStack
import ray
from serve.host import host
from serve.settings import HostedModel, ServingSettings
from sftfilter.errors import MachineError

told = json.loads(sys.argv[1])
ray.init(address=told["address"], log_to_driver=False, logging_level="ERROR")
models = [HostedModel.model_validate(model) for model in told["models"]]
settings = ServingSettings.model_validate(told["settings"])
with ExitStack() as hosting:
    for name in told["names"]:
        try:
            found = hosting.enter_context(host(models, settings, told["folder"], told["system"], "its-own-token", name))
            print("SAID", found.base_url, flush=True)
        except MachineError as error:
            print("SAID", error, flush=True)
    sys.stdin.read()
print("SAID done", flush=True)
"""


class OtherJob:
    """A driver of its own on the tests' cluster."""

    def __init__(self, models: Sequence[HostedModel], folder: str, names: Sequence[str]) -> None:
        import ray

        told = {
            "address": ray.get_runtime_context().gcs_address,
            "models": [model.model_dump() for model in models],
            "settings": SETTINGS.model_dump(),
            "folder": folder,
            "system": SYSTEM,
            "names": names,
        }
        command = [sys.executable, "-c", OTHER_JOB, json.dumps(told)]
        self.process = subprocess.Popen(
            command, text=True, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.said = [self._line() for _ in names]

    def _line(self) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("SAID "):
                return line.removeprefix("SAID ").strip()
        raise AssertionError(f"the other job ended with {self.process.wait()}")

    def end(self) -> None:
        """Let it end its endpoints."""
        assert self.process.stdin
        self.process.stdin.close()
        assert self._line() == "done" and self.process.wait(60) == 0

    def kill(self) -> None:
        """As the kernel does it for want of memory."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture(autouse=True)
def no_serve(cluster: None) -> Iterator[None]:
    """Other jobs leave Serve running."""
    yield
    _shut_down()


def status(base_url: str, key: str) -> int:
    return httpx.get(f"{base_url}/models", headers={"Authorization": f"Bearer {key}"}, trust_env=False).status_code


def applications() -> set[str]:
    from ray import serve

    return set(serve.status().applications)


def test_a_job_is_refused_a_name_that_another_hosts_and_leaves_its_endpoint_alone(
    cluster: None, builtin: str, models: list[HostedModel]
) -> None:
    private = private_name("run")
    assert private != private_name("run")
    with host(models[:1], SETTINGS, builtin, SYSTEM, API_KEY, "run") as mine:
        other = OtherJob(models[:1], builtin, ["run", private])
        assert "hosts an endpoint 'run' already" in other.said[0]
        assert (status(mine.base_url, API_KEY), status(other.said[1], "its-own-token")) == (200, 200)
        other.end()
        assert status(mine.base_url, API_KEY) == 200
        assert applications() == {"run"}


def test_a_job_does_not_shut_down_the_serve_of_a_cluster_that_it_did_not_start(
    cluster: None, builtin: str, models: list[HostedModel]
) -> None:
    other = OtherJob(models[:1], builtin, ["first"])
    with host(models[:1], SETTINGS, builtin, SYSTEM, API_KEY, "second") as mine:
        other.end()
        assert status(mine.base_url, API_KEY) == 200
        assert status(other.said[0], "its-own-token") == 404
    assert applications() == set() and _controlled(), "and who found Serve running leaves it running as well"


def test_what_a_killed_job_left_is_replaced_and_cleared_away(
    cluster: None, builtin: str, models: list[HostedModel]
) -> None:
    other = OtherJob(models[:1], builtin, ["left", "litter"])
    assert status(other.said[0], "its-own-token") == 200
    other.kill()
    assert applications() == {"left", "litter"}
    with host(models[:1], SETTINGS, builtin, SYSTEM, API_KEY, "left") as mine:
        assert (status(mine.base_url, API_KEY), status(mine.base_url, "its-own-token")) == (200, 401)
        assert applications() == {"left"}
    assert applications() == set() and abandoned() == []


def test_an_application_of_somebody_else_is_left_alone(cluster: None, builtin: str, models: list[HostedModel]) -> None:
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Theirs:
        def __call__(self) -> str:
            return "theirs"

    serve.start(http_options={"host": "127.0.0.1", "port": 0}, proxy_location="Disabled")
    serve.run(Theirs.bind(), name="run", route_prefix="/run")
    with (
        pytest.raises(MachineError, match=r"'run', which no run of sftfilter hosts"),
        host(models[:1], SETTINGS, builtin, SYSTEM, API_KEY, "run"),
    ):
        pytest.fail("this must not start")
    assert serve.get_app_handle("run").remote().result() == "theirs"


def test_a_serve_that_only_this_machine_reaches_is_no_place_for_a_public_endpoint(
    cluster: None, builtin: str, models: list[HostedModel]
) -> None:
    public = SETTINGS.model_copy(update={"host": "0.0.0.0"})
    with (
        host(models[:1], SETTINGS, builtin, SYSTEM, API_KEY, "run"),
        pytest.raises(MachineError, match=r"listens on 127\.0\.0\.1.*serving\.host '0\.0\.0\.0'"),
        host(models[:1], public, builtin, SYSTEM, API_KEY, "public"),
    ):
        pytest.fail("this must not start")
