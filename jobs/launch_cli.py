"""Commands that launch, watch and end runs, on this machine and on clusters."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.job_server import Reach
from jobs.run import INTERRUPTED, readable_errors
from sftfilter.errors import MachineError, SpecError

if TYPE_CHECKING:
    from jobs.status import RunStatus

SpecPath = Annotated[str, typer.Argument(help="the spec, a YAML file", metavar="SPEC")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="change a field: --set training.epochs=1 (repeatable; the value is YAML)", metavar="A.B=VALUE"
    ),
]
Name = Annotated[str, typer.Argument(help="a run's name (the spec's `name`) or a submission id", metavar="NAME")]
Address = Annotated[
    str | None,
    typer.Option(help="the cluster's job server; without one: runs on this machine", envvar="RAY_API_SERVER_ADDRESS"),
]
PlainHttp = Annotated[
    bool, typer.Option("--allow-plain-http", help="send the cluster's token in the clear to another machine")
]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", help="CA certificate that an https server is checked against")
]
Results = Annotated[Path, typer.Option(help="the specs' `results` folder, for runs on this machine")]
WorkingDir = Annotated[Path, typer.Option(help="folder to upload; the spec must lie in it")]


_RESUMED = ("run", "score", "decide", "inspect", "report", "eval")
"""Commands whose record `resume` repeats; a record is data, so nothing else is."""


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (submit, status, logs, stop, resume):
        app.command()(command)
    app.command("list")(list_runs)


def submit(
    spec: SpecPath,
    address: Annotated[str, typer.Option(help="the cluster's job server", envvar="RAY_API_SERVER_ADDRESS")],
    overrides: Overrides = None,
    working_dir: WorkingDir = Path(),
    allow_plain_http: PlainHttp = False,
    ca_file: CaFile = None,
    wait: Annotated[bool, typer.Option(help="follow the log and end with the job's outcome")] = True,
) -> None:
    """Run a spec on a Ray cluster: lists what it uploads, follows the log, and ends with the job's true outcome.

    Submitting what runs already follows it. Ctrl-C leaves the job running. Exit code 0 means SUCCEEDED (with
    `--no-wait`: taken). The token is read from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (default ~/.ray/auth_token).
    """
    from jobs.submit import prepare
    from jobs.submit import submit as send

    with readable_errors():
        reach = Reach(address, allow_plain_http, ca_file)
        work = prepare(spec, overrides or [], working_dir)
        _until_its_end(lambda: send(work, reach, print, wait=wait), reach, work.metadata["name"], wait)


def status(
    name: Name,
    address: Address = None,
    results: Results = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    worker_hour_price: Annotated[
        float | None, typer.Option(min=0, help="price of a worker's hour, instead of the spec's worker_hour_price")
    ] = None,
    allow_plain_http: PlainHttp = False,
    ca_file: CaFile = None,
) -> None:
    """Show what a run is doing: stages, rates and cost so far, time left of the stage; while it runs, and afterwards."""
    from jobs.status import cluster_status, local_status, status_lines

    with readable_errors():
        if address is None:
            found, lines = local_status(results, name), []
            told = found.as_dict()
        else:
            from jobs.job_server import connect, find_job

            client = connect(Reach(address, allow_plain_http, ca_file))
            job = find_job(client, name)
            found = cluster_status(client, job)
            lines = [f"{job.submission_id}: {job.status.value}"]
            told = {"submission_id": job.submission_id, "status": job.status.value} | (found.as_dict() if found else {})
        if as_json:
            print(json.dumps(told, indent=2))
            return
        print("\n".join([*lines, *(status_lines(found, worker_hour_price) if found else [])]))


def logs(
    name: Name,
    address: Annotated[str, typer.Option(help="the cluster's job server", envvar="RAY_API_SERVER_ADDRESS")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="until the job has ended")] = False,
    allow_plain_http: PlainHttp = False,
    ca_file: CaFile = None,
) -> None:
    """Print a job's log; with --follow until its end, and then leave with its outcome."""
    from jobs.job_server import connect, find_job, patient
    from jobs.submit import follow as follow_log

    with readable_errors():
        reach = Reach(address, allow_plain_http, ca_file)
        client = connect(reach)
        job = str(find_job(client, name).submission_id)
        if follow:
            _until_its_end(lambda: (job, follow_log(client, job, print)), reach, name, True)
        else:
            print(patient(lambda: client.get_job_logs(job), print).rstrip("\n"))


def stop(
    name: Name,
    address: Address = None,
    results: Results = Path("runs"),
    allow_plain_http: PlainHttp = False,
    ca_file: CaFile = None,
) -> None:
    """End a run as Ctrl-C would. Finished stages are kept, and `sftfilter resume` goes on from there."""
    with readable_errors():
        if address is None:
            _stop_here(results, name)
            return
        from jobs.job_server import connect, find_job
        from jobs.submit import stop as stop_job

        client = connect(Reach(address, allow_plain_http, ca_file))
        job = find_job(client, name)
        if job.status.is_terminal():
            print(f"{job.submission_id} has ended already: {job.status.value}")
            return
        print(stop_job(client, str(job.submission_id), print))


def resume(
    name: Name,
    address: Address = None,
    results: Results = Path("runs"),
    working_dir: WorkingDir = Path(),
    allow_plain_http: PlainHttp = False,
    ca_file: CaFile = None,
) -> None:
    """Go on with a run that was stopped, killed or failed, from its last finished stage.

    A spec that has changed since is refused: `run` and `submit` start it, and reuse every stage that is the same.
    """
    with readable_errors():
        if address is not None:
            from jobs.submit import prepare_again
            from jobs.submit import submit as send

            reach = Reach(address, allow_plain_http, ca_file)
            work = prepare_again(reach, name, working_dir)
            _until_its_end(lambda: send(work, reach, print), reach, name, True)
            return
        run, arguments = _recorded(results, name)
    from jobs.cli import app
    from jobs.resumed import going_on_with

    sys.argv = ["sftfilter", *arguments]  # what `eval` writes down as its command
    with going_on_with(run):
        app(arguments)


def list_runs(
    address: Address = None,
    results: Results = Path("runs"),
    allow_plain_http: PlainHttp = False,
    ca_file: CaFile = None,
) -> None:
    """List runs, the newest first: those below the results folder, or a cluster's jobs."""
    import datetime

    from jobs.run_record import EVENTS
    from jobs.status import local_status

    with readable_errors():
        if address is None:
            names = [path.parent.name for path in results.glob(f"*/{EVENTS}")]
            found = sorted((local_status(results, name) for name in names), key=lambda run: run.began, reverse=True)
            rows = [(run.name, run.state, run.began[:19], run.kind) for run in found]
        else:
            from jobs.job_server import connect, our_jobs

            rows = []
            for job in our_jobs(connect(Reach(address, allow_plain_http, ca_file))):
                began = datetime.datetime.fromtimestamp((job.start_time or 0) / 1000, datetime.UTC)
                told = job.metadata or {}
                rows.append(
                    (str(job.submission_id), job.status.value, f"{began:%Y-%m-%dT%H:%M:%S}", told.get("name", ""))
                )
        for row in rows:
            print(f"{row[0]:<40} {row[1]:<20} {row[2]}  {row[3]}")
        if not rows:
            print("none")


def _until_its_end(work: Callable[[], tuple[str, str]], reach: Reach, name: str, wait: bool) -> None:
    """Run what follows a job; leave with its outcome."""
    from jobs.job_server import connect
    from jobs.submit import end_of, leave_with

    try:
        job, ended = work()
    except KeyboardInterrupt:
        print(
            f"\nno longer following; the job runs on. Take it up again: sftfilter logs -f {name} --address {reach.address}; "
            f"end it: sftfilter stop {name} --address {reach.address}",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
    if wait and ended != "SUCCEEDED" and (why := end_of(connect(reach), job)):
        print(why)
    print(ended)
    if wait:
        leave_with(ended)


def _stop_here(results: Path, name: str) -> None:
    from jobs.status import local_status

    run = local_status(results, name)
    if run.state != "running":
        print(f"{name} does not run: {run.state}")
        return
    if not run.here:
        raise SpecError(f"{name} runs on {run.host}: stop it there, or give its cluster's --address")
    os.kill(run.pid, signal.SIGTERM)
    print(f"stopping {name} (process {run.pid}): its finished stages are kept")
    deadline = time.monotonic() + 120
    while run.here:
        if time.monotonic() > deadline:
            raise MachineError(f"process {run.pid} has not ended within 120 s")
        time.sleep(0.2)
    print(local_status(results, name).state)


def _recorded(results: Path, name: str) -> tuple[RunStatus, list[str]]:
    """A recorded run and its command line, with its folder entered.

    Raises:
        SpecError: the run goes on, or was not started by `sftfilter` on this machine.
    """
    from jobs.status import local_status

    run = local_status(results, name)
    if run.state == "running":
        heard = "" if run.silent_s is None else f", heard of {run.silent_s:.0f} s ago"
        raise SpecError(
            f"{name} runs already (process {run.pid} on {run.host}{heard}); see it with `sftfilter status {name}`"
        )
    program, *arguments = shlex.split(run.command)
    if program != "sftfilter" or not arguments or arguments[0] not in _RESUMED:
        raise SpecError(
            f"{name} was started with `{run.command}`: repeat that, or `sftfilter resume` with its --address"
        )
    if not Path(run.cwd).is_dir():
        raise SpecError(f"{name} was started in {run.cwd}, which is gone")
    print(f"in {run.cwd}: {run.command}", file=sys.stderr)
    os.chdir(run.cwd)
    return run, arguments
