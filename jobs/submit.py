"""Submit a spec to a running cluster through Ray's Jobs SDK, follow its log, and end with its true outcome."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.job_server import PATIENCE_S, POLL_S, Reach, connect, find_job, our_jobs, patient
from jobs.spec import load_spec
from jobs.uploads import EXCLUDES, upload_of
from sftfilter.config import stable_hash
from sftfilter.errors import MachineError, SpecError
from sftfilter.private import redact

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from jobs.kinds.job import JobSpec

STOP_WAIT_S = 60
"""How long a stopped job may take to end the stage's workers before it is killed. Ray's default is 3 s."""
_SUCCEEDED = "SUCCEEDED"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """A spec, ready to be sent.

    Attributes:
        stem: submission id without the number of the attempt; the same for the same work.
    """

    stem: str
    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    root: Path


def prepare(spec_path: str, overrides: Sequence[str], working_dir: Path) -> Submission:
    """Check a spec and what it takes to run it elsewhere.

    Raises:
        SpecError: the spec is wrong, or lies outside of `working_dir`, which is what is uploaded.
    """
    spec = load_spec(spec_path, overrides)
    root = working_dir.resolve()
    try:
        inside = Path(spec_path).resolve().relative_to(root)
    except ValueError as error:
        raise SpecError(f"{spec_path} lies outside of the uploaded folder {root}; set --working-dir") from error
    for override in overrides:
        if redact(override) != override:
            raise SpecError(
                f"--set {override.partition('=')[0]}: its value is a secret, and would be stored with the job"
            )
    flags = [word for override in overrides for word in ("--set", override)]
    # RAY_JOB_STOP_WAIT_TIME_S is read by the job's supervisor, which gets the job's environment.
    env = {
        "working_dir": str(root),
        "excludes": list(EXCLUDES),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
    }
    told = {"name": spec.name, "spec": str(inside), "set": json.dumps(list(overrides)), "spec_hash": spec.spec_hash}
    return Submission(
        f"sft-{spec.name}-{_work_hash(spec)}",
        shlex.join(["python", "-m", "jobs.run", str(inside), *flags]),
        env,
        told,
        root,
    )


def _work_hash(spec: JobSpec) -> str:
    """Changes with the outcome (the contents of data files count), and with where and how large the job runs."""
    return stable_hash([spec.spec_hash, spec.model_dump(mode="json", include=set(spec.aside))], 8)


def submit(work: Submission, reach: Reach, say: Say, *, wait: bool = True) -> tuple[str, str]:
    """Submit; stream the log until the job has ended. Answers (submission id, last status).

    The id is made from the work: submitting what runs already attaches to it, and so does a second try after the
    connection dropped while the first was on its way.

    Raises:
        SpecError: the folder is too large to be uploaded.
        MachineError: no job server at the address, or it refuses.
    """
    upload = upload_of(work.root)
    for line in upload.listing():
        say(line)
    upload.check()
    client = connect(reach)
    name, running = patient(lambda: _send(client, work), say)
    say(f"{name} runs already; following it" if running else f"submitted {name} to {reach.address}")
    if not wait:
        return name, str(patient(lambda: client.get_job_status(name), say).value)
    return name, follow(client, name, say)


def _send(client: JobSubmissionClient, work: Submission) -> tuple[str, bool]:
    """Id, and whether somebody had submitted it before. Safe to repeat."""
    name, running = _free_id(client, work.stem)
    if running:
        return name, True
    try:
        client.submit_job(
            entrypoint=work.entrypoint, submission_id=name, runtime_env=dict(work.runtime_env), metadata=work.metadata
        )
    except (RuntimeError, ValueError) as error:
        if name in {job.submission_id for job in our_jobs(client)}:
            return name, True  # somebody was faster, or the answer to an earlier try was lost
        raise MachineError(f"the cluster refused the job: {_first_line(error)}") from error
    return name, False


def _free_id(client: JobSubmissionClient, stem: str) -> tuple[str, bool]:
    taken = {job.submission_id: job.status for job in our_jobs(client)}
    attempt = 0
    while f"{stem}-{attempt}" in taken:
        if not taken[f"{stem}-{attempt}"].is_terminal():
            return f"{stem}-{attempt}", True
        attempt += 1
    return f"{stem}-{attempt}", False


def follow(client: JobSubmissionClient, name: str, say: Say) -> str:
    """Print what the job logs until it has ended; a dropped connection is taken up where it was. Answers the status.

    Raises:
        MachineError: nothing was heard for five minutes.
    """
    shown = _Shown(say)
    lost_since: float | None = None
    while True:
        try:
            with contextlib.suppress(
                *_stream_errors()
            ):  # where web sockets are blocked, whole logs are fetched instead
                asyncio.run(_stream(client, name, shown))
            status = client.get_job_status(name)
            shown.rest(client.get_job_logs(name), last=status.is_terminal())
            lost_since = None
        except (RuntimeError, OSError) as error:
            if "does not exist" in str(error):
                raise MachineError(f"the cluster does not know job {name} any more; was its head restarted?") from error
            if lost_since is None:
                lost_since = time.monotonic()
                say(f"connection lost ({type(error).__name__}); trying again for {PATIENCE_S:.0f} s")
            if time.monotonic() - lost_since > PATIENCE_S:
                raise MachineError(f"job {name}: nothing heard for {PATIENCE_S:.0f} s ({error})") from error
        else:
            if status.is_terminal():
                return str(status.value)
        time.sleep(POLL_S)


def _stream_errors() -> tuple[type[Exception], ...]:
    import aiohttp

    return RuntimeError, OSError, TimeoutError, aiohttp.ClientError


async def _stream(client: JobSubmissionClient, name: str, shown: _Shown) -> None:
    shown.again()
    async for text in client.tail_job_logs(name):
        shown.add(text)


class _Shown:
    """Whole lines of a log, once each, though every stream of it starts at its beginning."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.printed = 0
        self.seen = 0
        self.pending = ""

    def again(self) -> None:
        """A stream starts."""
        self.seen, self.pending = 0, ""

    def add(self, text: str) -> None:
        """The stream's next piece."""
        fresh = text[max(0, self.printed - self.seen) :]
        self.seen += len(text)
        whole, newline, self.pending = (self.pending + fresh).rpartition("\n")
        if newline:
            self.printed = self.seen - len(self.pending)
            self.say(whole)

    def rest(self, log: str, last: bool) -> None:
        """The whole log: what no stream has brought is printed, a line that is not whole only if it is the last one."""
        left = log[self.printed :]
        if not last:
            left = left[: left.rfind("\n") + 1]
        self.printed += len(left)
        if left.strip("\n"):
            self.say(left.rstrip("\n"))


def end_of(client: JobSubmissionClient, name: str) -> str | None:
    """Why a job ended, in Ray's words, where they say more than its log."""
    message = client.get_job_info(name).message or ""
    return None if re.search(r"finished successfully|Last available logs", message) else message.strip() or None


def prepare_again(reach: Reach, name: str, working_dir: Path) -> Submission:
    """The submission that a job on the cluster came from, to be sent again from the same folder.

    Raises:
        SpecError: the job was not submitted by `sftfilter submit`, or its spec is not what it was.
    """
    job = find_job(connect(reach), name)
    told = job.metadata or {}
    if "spec" not in told or "set" not in told:
        raise SpecError(
            f"{job.submission_id} was not submitted by `sftfilter submit`, so there is no spec to go on with"
        )
    work = prepare(str(working_dir / told["spec"]), json.loads(told["set"]), working_dir)
    if work.metadata["spec_hash"] != told.get("spec_hash"):
        raise SpecError(
            f"{told['spec']} or a file that it names is not what {job.submission_id} ran: `sftfilter submit` starts the "
            "changed work, and reuses every stage that is the same"
        )
    return work


def stop(client: JobSubmissionClient, name: str, say: Say) -> str:
    """End a job as Ctrl-C would: stages that are finished are kept. Waits until it has ended; answers its status."""
    client.stop_job(name)
    say(f"stopping {name}: its finished stages are kept (it is killed after {STOP_WAIT_S} s)")
    deadline = time.monotonic() + STOP_WAIT_S + PATIENCE_S
    while not (status := patient(lambda: client.get_job_status(name), say)).is_terminal():
        if time.monotonic() > deadline:
            raise MachineError(f"{name} has not ended: it is {status.value}")
        time.sleep(POLL_S / 2)
    return str(status.value)


def leave_with(status: str) -> None:
    """Exit with 1 unless the job succeeded."""
    if status != _SUCCEEDED:
        sys.exit(1)


def _first_line(error: Exception) -> str:
    """Ray puts the server's traceback behind the reason."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
