"""`sftfilter diff`: two finished runs beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from jobs.run import readable_errors

_WIDTH = 80
_Run = typer.Argument(help="a finished run's folder, or its name below --results")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(diff)


def diff(
    run_a: Annotated[str, _Run],
    run_b: Annotated[str, _Run],
    results: Annotated[Path, typer.Option(help="where runs that are given by name lie")] = Path("runs"),
    all_groups: Annotated[
        bool, typer.Option("--all-groups", help="every group of held-out prompts, not only the trait's own")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Compare two finished runs. Nothing is started or written.

    Prints what differs in their specs, field by field, and in versions; the
    artifacts that they share; and for every arm, trait and estimand of both the
    two estimates with their intervals. Where both were asked the same prompts,
    the paired difference A - B with its interval and a p-value, adjusted (Holm)
    over all differences that are shown. What cannot be compared is named with
    the reason. For experiments, sweeps, lattices, carrier searches and evals; of
    one kind each.

      sftfilter diff quickstart quickstart-full

      sftfilter diff runs/quickstart /elsewhere/runs/quickstart --json
    """
    from rich.console import Console

    from jobs.diff.diff import diff_runs
    from jobs.diff.show import print_diff

    with readable_errors():
        found = diff_runs(run_a, run_b, results, all_groups)
        if as_json:
            print(json.dumps(found.as_dict(), indent=2))
        else:
            print_diff(found, Console(highlight=False, width=_WIDTH))
