"""The cluster's job server: reached through Ray's Jobs SDK, over https or on this machine, with a token kept private."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from sftfilter.errors import MachineError, SpecError
from sftfilter.private import check_private

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

POLL_S = 2.0
PATIENCE_S = 300.0
RAY_TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105
T = TypeVar("T")


@dataclass(frozen=True)
class Reach:
    """How a job server is reached.

    Attributes:
        address: `http://127.0.0.1:8265`, `https://ray.example.org`.
        allow_plain_http: send the token in the clear to another machine.
        ca_file: certificate of a CA of one's own, that https servers are checked against.
    """

    address: str
    allow_plain_http: bool = False
    ca_file: Path | None = None


def check_reach(reach: Reach) -> None:
    """Raise when the address is none, or talking to it would give the token away.

    Raises:
        SpecError: not http(s), credentials in it, or plain http to another machine.
        MachineError: the token's file can be read by others, or the CA's is missing.
    """
    parts = urlsplit(reach.address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"--address {reach.address}: expected the job server's URL, such as https://ray.example.org")
    if parts.username or parts.password:
        raise SpecError("--address holds credentials: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH instead")
    if parts.scheme == "http" and not _loopback(parts.hostname) and not reach.allow_plain_http:
        raise SpecError(
            f"http://{parts.netloc} would get the cluster's token in the clear, and whoever has it runs code there. Tunnel "
            f"(`ssh -N -L 8265:localhost:{parts.port or 8265} {parts.hostname}`, then --address http://localhost:8265), use "
            "https, or pass --allow-plain-http on a network you trust"
        )
    if reach.ca_file and not reach.ca_file.is_file():
        raise MachineError(f"--ca-file {reach.ca_file}: no such file")
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or RAY_TOKEN_FILE).expanduser()
    if "RAY_AUTH_TOKEN" not in os.environ and ("RAY_AUTH_TOKEN_PATH" in os.environ or token.exists()):
        check_private(token, "the cluster's token")


def connect(reach: Reach) -> JobSubmissionClient:
    """A client whose server has answered.

    Raises:
        SpecError, MachineError: as `check_reach`; or nobody answers, or the token is refused.
    """
    check_reach(reach)
    # Ray reads mode and token once, when it is imported.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if reach.ca_file:  # the log stream and the log service take theirs from the environment
        os.environ["REQUESTS_CA_BUNDLE"] = os.environ["SSL_CERT_FILE"] = str(reach.ca_file)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    address = reach.address.rstrip("/")
    try:
        return JobSubmissionClient(address, verify=str(reach.ca_file) if reach.ca_file else True)
    except AuthenticationError as error:
        raise MachineError(
            f"{address} refuses the token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own"
        ) from error
    except (ConnectionError, RuntimeError, OSError) as error:
        raise MachineError(f"no job server at {address}: {_unreachable(error)}") from error


def _unreachable(error: Exception) -> str:
    """Why, and what to do: Ray keeps to itself what its HTTP client said."""
    from requests.exceptions import SSLError

    said = error.__context__ or error
    if isinstance(said, SSLError):
        return f"its certificate is not trusted ({said}): pass --ca-file with the CA that signed it"
    return f"{str(error).rstrip('.')}. Is the cluster up, and is this its dashboard?"


def patient(call: Callable[[], T], say: Callable[[str], None], patience_s: float = PATIENCE_S) -> T:
    """What the server answers; a connection that drops is taken up again for so long.

    Raises:
        MachineError: nothing was heard all that time.
    """
    began = time.monotonic()
    told = False
    while True:
        try:
            return call()
        except (ConnectionError, TimeoutError, OSError) as error:  # requests' errors are OSErrors
            if time.monotonic() - began > patience_s:
                raise MachineError(f"nothing heard from the cluster for {patience_s:.0f} s: {error}") from error
            if not told:
                say(f"connection lost ({type(error).__name__}); trying again for {patience_s:.0f} s")
            told = True
            time.sleep(POLL_S)


def our_jobs(client: JobSubmissionClient) -> list[JobDetails]:
    """Jobs that were submitted, the newest first."""
    found = [job for job in client.list_jobs() if job.submission_id]
    return sorted(found, key=lambda job: job.start_time or 0, reverse=True)


def find_job(client: JobSubmissionClient, name: str) -> JobDetails:
    """The job with a submission id, or the newest of the run with that name.

    Raises:
        SpecError: there is none.
    """
    jobs = our_jobs(client)
    for job in jobs:
        if job.submission_id == name:
            return job
    for job in jobs:
        if (job.metadata or {}).get("name") == name:
            return job
    shown = ", ".join(str(job.submission_id) for job in jobs[:5]) or "none"
    raise SpecError(
        f"no job '{name}' on this cluster, neither as a run's name nor as a submission id; the newest: {shown}"
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
