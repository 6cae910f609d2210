"""Submit a spec to a running cluster through Ray's Jobs SDK, follow its log, and end with its true outcome."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.spec import load_spec
from sftfilter.config import stable_hash
from sftfilter.errors import MachineError, SpecError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_POLL_S = 2.0
_PATIENCE_S = 300.0


def submit(
    spec_path: str, overrides: Sequence[str], address: str, working_dir: Path, say: Callable[[str], None]
) -> tuple[str, str]:
    """Submit, stream the log until the job has ended; answers (submission id, final status).

    The id is made from the spec: submitting what runs already attaches to it.

    Raises:
        SpecError: the spec lies outside of `working_dir`, which is what is uploaded.
        MachineError: no job server at `address`, or it refuses.
    """
    spec = load_spec(spec_path, overrides)
    root = working_dir.resolve()
    try:
        inside = Path(spec_path).resolve().relative_to(root)
    except ValueError as error:
        raise SpecError(f"{spec_path} lies outside of the uploaded folder {root}; set --working-dir") from error
    client = _connect(address)
    flags = [word for override in overrides for word in ("--set", override)]
    submission = _free_id(client, f"sft-{spec.name}-{stable_hash(spec.model_dump(mode='json'), 8)}")
    if submission.running:
        say(f"{submission.id} runs already; following it")
    else:
        entrypoint = shlex.join(["python", "-m", "jobs.run", str(inside), *flags])
        excludes = [".venv", ".git", "runs", ".cache"]
        try:
            client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission.id,
                runtime_env={"working_dir": str(root), "excludes": excludes},
            )
        except (RuntimeError, ValueError) as error:
            raise MachineError(f"the cluster at {address} refused the job: {error}") from error
        say(f"submitted {submission.id} to {address}")
    return submission.id, follow(client, submission.id, say)


class _Id:
    def __init__(self, name: str, running: bool) -> None:
        self.id = name
        self.running = running


def _free_id(client: JobSubmissionClient, stem: str) -> _Id:
    taken = {job.submission_id: job.status for job in client.list_jobs() if job.submission_id}
    attempt = 0
    while True:
        name = f"{stem}-{attempt}"
        if name not in taken:
            return _Id(name, running=False)
        if not taken[name].is_terminal():
            return _Id(name, running=True)
        attempt += 1


def _connect(address: str) -> JobSubmissionClient:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise MachineError(
            f"{address} refuses the token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        raise MachineError(
            f"no job server at {address}: {error}. Is the cluster up, and is this its dashboard?"
        ) from error


def follow(client: JobSubmissionClient, submission: str, say: Callable[[str], None]) -> str:
    """Print what the job logs until it has ended; a dropped connection is taken up again."""
    shown = 0
    heard = time.monotonic()
    while True:
        try:
            status = client.get_job_status(submission)
            log = client.get_job_logs(submission)
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() - heard > _PATIENCE_S:
                raise MachineError(f"job {submission}: nothing heard for {_PATIENCE_S:.0f} s ({error})") from error
            say(f"connection lost ({error}); trying again")
            time.sleep(_POLL_S)
            continue
        heard = time.monotonic()
        if len(log) > shown:
            say(log[shown:].rstrip("\n"))
            shown = len(log)
        if status.is_terminal():
            return str(status.value)
        time.sleep(_POLL_S)
