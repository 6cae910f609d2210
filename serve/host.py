"""Bring an endpoint up on the Ray cluster this process is connected to, and take it down again."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, LoggingConfig

from serve.claims import abandoned, claimed
from serve.deployments import build, checked_format
from serve.guard import digest
from serve.settings import API_KEY_VARIABLE, EndpointConfig, HostedModel, ServingSettings
from sftfilter.endpoint.settings import is_loopback
from sftfilter.errors import MachineError, SpecError

_POLL_S = 0.1
_SHUTDOWN_S = 30.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Errors only: Serve's warnings are about its own batching limits, which students.py sets on purpose.
LOGS = LoggingConfig(enable_access_log=False, log_level="ERROR")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint. `base_url` is what OpenAI clients are given."""

    base_url: str
    api_key: str = field(repr=False)


@contextlib.contextmanager
def host(
    models: Sequence[HostedModel],
    settings: ServingSettings,
    tokenizer_folder: str,
    system_prompt: str | None,
    api_key: str,
    name: str,
) -> Iterator[Endpoint]:
    """Serve models under `http://host:port/<name>/v1` until the block ends.

    Serve is started where it does not run. It is shut down again on a cluster of this process's own only: on others'
    another job may be about to use it. Applications that killed runs left on a long-lived cluster are deleted.

    Args:
        tokenizer_folder: tokenizer and chat template that all models were trained with.
        api_key: bearer token clients must send; empty serves without one, on a loopback address only.
        name: application name and first part of the path; see `claims.private_name` for one that nobody else has.

    Raises:
        SpecError: bad name, double model ids, or an open endpoint on a public address.
        DataError: a model was trained with another chat format.
        MachineError: another job hosts an application of this name, the port is taken, or the endpoint did not come up
            within `start_timeout_s`.
    """
    config = endpoint_config(models, settings, tokenizer_folder, system_prompt, [api_key] if api_key else [], name)
    if not ray.is_initialized():  # Serve would start a cluster of its own without a word
        raise MachineError("no Ray cluster is connected: call ray.init before serve.host.host")
    checked_format(tokenizer_folder, system_prompt, models)
    with quiet(), claimed(name) as left, proxy(settings) as (address, port):
        _clear_abandoned()
        _make_way(name, left)
        root = f"http://{address}:{port}/{name}"
        try:
            _deploy(config)
            _wait_until_up(config, root)
            yield Endpoint(f"{root}/v1", api_key)
        finally:
            _delete(name)


def endpoint_config(
    models: Sequence[HostedModel],
    settings: ServingSettings,
    tokenizer_folder: str,
    system_prompt: str | None,
    api_keys: Sequence[str],
    name: str,
) -> EndpointConfig:
    """What replicas are given, checked.

    Raises:
        SpecError: bad name, double model ids, or an open endpoint on a public address.
    """
    if not _NAME.fullmatch(name):
        raise SpecError(f"endpoint name '{name}': use letters, digits, '.', '_' and '-' (it is part of the URL)")
    ids = [model.id for model in models]
    if not ids or len(set(ids)) < len(ids):
        raise SpecError("an endpoint needs at least one model, and every id once; got: " + ", ".join(ids))
    if not api_keys and not is_loopback(settings.host):
        raise SpecError(
            f"serving.host '{settings.host}' can be reached from other machines: set an API key ({API_KEY_VARIABLE}), "
            "or serve on 127.0.0.1"
        )
    return EndpointConfig(
        name=name,
        models=[m if settings.share_base else m.model_copy(update={"adapter": None}) for m in models],
        settings=settings,
        tokenizer_folder=tokenizer_folder,
        system_prompt=system_prompt,
        key_digests=[digest(key) for key in api_keys],
    )


def _clear_abandoned() -> None:
    """Delete what jobs that have ended left running; it would hold its CPUs and GPUs for good."""
    for name in abandoned():
        with contextlib.suppress(MachineError), claimed(name):  # another job may be about to do the same
            _delete(name)


def _make_way(name: str, left: bool) -> None:
    if name not in serve.status().applications:
        return
    if not left:
        raise MachineError(
            f"an application '{name}', which no run of sftfilter hosts, is on this cluster's Ray Serve: delete it there, "
            "or give the run's folder another name"
        )
    _delete(name)


@contextlib.contextmanager
def proxy(settings: ServingSettings) -> Iterator[tuple[str, int]]:
    """Address and port of Serve's HTTP proxy on the head node, started where there is none."""
    if (running := _running_proxy(settings)) is not None:
        yield running
        return
    port = _free_port(settings.host, settings.port)
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(
                host=settings.host,
                port=port,
                request_timeout_s=settings.request_timeout_s + 30,  # the gateway's own limit answers in OpenAI's shape
            ),
            logging_config=LOGS,
        )
        yield _reachable(settings.host), port
    finally:
        with contextlib.suppress(Exception):  # the block's own error matters more
            # Without Ray there is nothing to shut down, and asking Serve would start a new cluster.
            if ray.is_initialized() and _own_cluster() and not serve.status().applications:
                _shut_down()


def _running_proxy(settings: ServingSettings) -> tuple[str, int] | None:
    """Address and port of the proxy of a Serve that runs already."""
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is None:
        return None
    options = running.http_config
    if is_loopback(options.host or "") != is_loopback(settings.host):
        raise MachineError(
            f"Ray Serve already runs on this cluster and listens on {options.host}:{options.port}, which is not "
            f"serving.host '{settings.host}'; set serving.host to it, or end that Serve, when nobody needs it any more "
            "(`serve shutdown`)"
        )
    return _reachable(options.host or "127.0.0.1"), options.port


def _own_cluster() -> bool:
    """Whether this process started the cluster, which then ends with it."""
    return ray._private.worker.global_worker.node.is_head()  # pyright: ignore


def _shut_down() -> None:
    """Shut Serve down as `serve.shutdown` does, but without having the controller die in the midst of a call.

    Ray reports such a call to the driver as one that failed and will be retried, at the end of every run.
    """
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        ray.get(client._controller.graceful_shutdown.remote(wait=False), timeout=_SHUTDOWN_S)
        deadline = time.monotonic() + _SHUTDOWN_S
        while time.monotonic() < deadline and _controlled():
            time.sleep(_POLL_S)
    serve.shutdown()


def _controlled() -> bool:
    """Whether Serve's controller is still there."""
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def check_port(settings: ServingSettings) -> None:
    """Raise MachineError when the endpoint could not listen, so that it is known before hours of training.

    Where Serve runs on the connected cluster already, its proxy will be used.
    """
    if _running_proxy(settings) is None:
        _free_port(settings.host, settings.port)


def _free_port(address: str, port: int) -> int:
    """Serve's proxy binds with SO_REUSEPORT: without this check two endpoints would share a port and mix answers."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise MachineError(
                f"cannot serve on {address}:{port}: {error.strerror}; set serving.port to a free port, or to 0 to have "
                "one picked"
            ) from error
        return probe.getsockname()[1]


def _reachable(bound: str) -> str:
    """A wildcard address is reached at the node's own one."""
    address = ray.util.get_node_ip_address() if bound in ("0.0.0.0", "::") else bound  # noqa: S104
    return f"[{address}]" if ":" in address else address


def _deploy(config: EndpointConfig) -> None:
    target = serve.RunTarget(
        target=build(config), name=config.name, route_prefix=f"/{config.name}", logging_config=LOGS
    )
    # Serve's own waiting has no limit: replicas that no node can hold would be waited for for ever.
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _wait_until_up(config: EndpointConfig, root: str) -> None:
    deadline = time.monotonic() + config.settings.start_timeout_s
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline:
            found = serve.status().applications.get(config.name)
            if found and found.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise _not_up(config, f"failed to start: {_reasons(config.name)}")
            if found and found.status == ApplicationStatus.RUNNING and _answers(client, root):
                return
            time.sleep(_POLL_S)
    free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
    raise _not_up(
        config,
        f"was not up within serving.start_timeout_s = {config.settings.start_timeout_s:g} s: {_reasons(config.name)} "
        f"(free now: {free}; a replica needs {config.settings.cpus_per_replica:g} CPU"
        f"{' and 1 GPU' if config.settings.use_gpu else ''})",
    )


def _answers(client: httpx.Client, root: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get(f"{root}/health").status_code == 200
    return False


def _not_up(config: EndpointConfig, why: str) -> MachineError:
    return MachineError(f"endpoint '{config.name}' {why}")


def _reasons(name: str) -> str:
    found = serve.status().applications.get(name)
    messages = [found.message, *(d.message for d in found.deployments.values())] if found else ["it is not deployed"]
    return "; ".join(m.strip() for m in messages if m.strip()) or "Ray Serve gives no reason"


def _delete(name: str) -> None:
    if not ray.is_initialized():
        return
    try:
        serve.delete(name)
    except Exception as error:  # the block's own error matters more
        log.warning("endpoint '%s' could not be deleted: %s", name, error)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Serve reports every step of a deployment to the driver's standard error."""
    logger = logging.getLogger("ray.serve")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
