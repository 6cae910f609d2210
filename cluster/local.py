"""A Ray head of our own on this machine: own temp folder, own token, loopback only, gone when the block ends."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sftfilter.errors import MachineError

_QUIET = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",  # what runs here is nobody else's business
}
PATIENT = {
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "120",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "120",
}
"""A machine that is busy takes longer than the 30 and 60 s that Ray gives its dashboard to start."""


@contextmanager
def local_ray(worker_env: Mapping[str, str], cpus: int | None = None) -> Iterator[None]:
    """Start Ray in this process and shut it down afterwards; other clusters on the machine are not touched.

    Args:
        worker_env: environment of every worker.
        cpus: logical CPUs to offer; default: the machine's, at least 2, since a run needs two workers.

    Raises:
        MachineError: Ray did not start.
    """
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= PATIENT | os.environ | _QUIET
    os.environ["RAY_AUTH_MODE"] = "token"
    # Ray reads mode and token once, when it is imported: a process that did so keeps its token.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    # Unix socket paths are limited to 107 bytes, so the folder's name is short.
    temp = tempfile.mkdtemp(prefix="sft-", dir="/tmp")
    try:
        try:
            ray.init(
                num_cpus=cpus or max(2, os.cpu_count() or 1),
                _temp_dir=temp,
                _node_ip_address="127.0.0.1",
                include_dashboard=True,  # the state API, which Ray Train's clean-up asks, lives there
                dashboard_host="127.0.0.1",
                dashboard_port=0,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                runtime_env={"env_vars": dict(worker_env)},
            )
        except Exception as error:
            why = " ".join(str(error).split())[:500].rstrip(".")
            raise MachineError(
                f"Ray did not start on this machine (load average {os.getloadavg()[0]:.0f}): {why}. "
                "Run again, when it is less busy; finished stages are kept"
            ) from error
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(temp, ignore_errors=True)
