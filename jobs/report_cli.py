"""`sftfilter report`: open a run's page, or host those of all runs."""

from __future__ import annotations

import contextlib
import secrets
import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from jobs.launch_cli import Results
from jobs.run import readable_errors
from sftfilter.config import did_you_mean
from sftfilter.errors import DataError, SpecError


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(report)


def report(
    run: Annotated[
        str | None, typer.Argument(help="a run: its folder, or its name below --results", metavar="[RUN]")
    ] = None,
    results: Results = Path("runs"),
    host_all: Annotated[bool, typer.Option("--host", help="host the pages of all runs, with an index")] = False,
    port: Annotated[int, typer.Option(help="for --host; 0 picks a free one")] = 8124,
    show: Annotated[bool, typer.Option("--open/--no-open", help="show it in the browser")] = True,
) -> None:
    """Open a run's page in the browser, or host those of all runs behind one link.

    The page is a file that needs no server; `--no-open` only prints where it lies. With `--host`, Ray Serve
    shows all runs below --results on 127.0.0.1 until Ctrl-C; the printed link carries the token that it asks for.

      sftfilter report quickstart

      sftfilter report --host --results /shared/runs
    """
    with readable_errors():
        if host_all:
            if run is not None:
                raise SpecError("--host shows all runs: leave RUN out, and name their folder with --results")
            _host(results.expanduser().resolve(), port, show)
            return
        page = _page(run, results)
        print(page)
        if show:
            webbrowser.open(page.as_uri())


def _page(run: str | None, results: Path) -> Path:
    from sftfilter.report.index import listed_runs, page_of

    if run is None:
        raise SpecError("which run? Name one, or host the pages of all with --host")
    folder = Path(run) if (Path(run).is_dir() or "/" in run) else results / run
    if not folder.is_dir():
        known = [listed.name for listed in listed_runs(results)] if results.is_dir() else []
        raise DataError(f"no run '{folder}'{did_you_mean(run, known)}")
    page = page_of(folder)
    if page is None:
        raise DataError(
            f"{folder} has no page (yet): `sftfilter status {folder.name}` shows how far it is; a finished run's page is "
            "drawn again by a spec of kind report"
        )
    return page.resolve()


def _host(root: Path, port: int, show: bool) -> None:
    from cluster.local import local_ray
    from jobs.run import sigterm_as_ctrl_c, worker_env
    from serve.settings import ServingSettings

    if not root.is_dir():
        raise DataError(f"no results folder '{root}': name it with --results")
    with local_ray(worker_env()):
        sigterm_as_ctrl_c()
        from serve.reports import host_reports

        with host_reports(root, ServingSettings(port=port), secrets.token_urlsafe(32)) as link:
            print(f"{link}\nCtrl-C ends it", flush=True)
            if show:
                webbrowser.open(link)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
