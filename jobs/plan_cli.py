"""`sftfilter plan`: what a spec would make, cost and find, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.launch_cli import Overrides, SpecPath
from jobs.run import readable_errors
from sftfilter.errors import SpecError

if TYPE_CHECKING:
    from jobs.kinds.job import JobSpec
    from jobs.plan.designs import Guesses
    from jobs.plan.plan import Stated

_WIDTH = 80


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(plan)


def plan(
    spec: SpecPath,
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="a recorded run (runs/NAME) whose stages, scores and students cost what these will, and whose grades are "
            "the pilot; default: the run of the spec's own name, if there is one",
        ),
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(help="a YAML file of costs, such as jobs/examples/costs.yaml, where each key is explained"),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(help="state a cost: --cost answer_s=0.8, --cost score_s.probe=0.1", metavar="KEY=VALUE"),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(help="rows of `prompts`, a teacher or a student that are not here yet", metavar="NAME=NUMBER"),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(help="tokens of a row of these, a prompt or prompt and answer together", metavar="NAME=NUMBER"),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            help="A100-80G, H100-80G, H200, L4 (jobs/examples/hardware.yaml) or one of --hardware-table: time from FLOPs and a "
            "guessed utilisation, and money",
            metavar="NAME",
        ),
    ] = None,
    hardware_table: Annotated[
        Path | None, typer.Option(help="a YAML file of your own devices, in the form of jobs/examples/hardware.yaml")
    ] = None,
    utilisation: Annotated[
        list[str] | None,
        typer.Option(help="of the peak; default: guesses, training=0.35 and generation=0.1", metavar="[WORK=]SHARE"),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(help="of a model whose files are not here, such as ORG/MODEL=9e9", metavar="MODEL=NUMBER"),
    ] = None,
    workers: Annotated[list[int] | None, typer.Option(min=1, help="default: 1, 8, 64 and 512")] = None,
    effect: Annotated[
        list[str] | None,
        typer.Option(help="effect to find: 0.3 for all contrasts, R_drop=0.5 for one", metavar="[CONTRAST=]NUMBER"),
    ] = None,
    guess: Annotated[
        list[str] | None,
        typer.Option(
            help="instead of a pilot: rates.ROLE, rate, prompt_share, sample_share, seed_sd, pairing, such as seed_sd=0.1",
            metavar="KEY=VALUE",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Say what a spec would make, cost and find. Nothing is started or written.

    [bold]Made[/]: rollouts, rows to score, students and answers. What runs of the very
    same spec have made already is left out of all that follows. Files are
    counted as a run would read them. `≤` marks what only scores can tell:
    nothing is taken for dropped then.

    [bold]Cost[/]: seconds from a recorded run, a file or the command line, with the
    source of each. A worker is what those were measured on, a GPU or a
    machine; or a device of `--hardware`, reckoned by FLOPs. Wall time on more of them is reckoned by list scheduling; `limit`
    is what no number of workers gets below: setup, decisions, students one by
    one, shared storage, the head node.

    [bold]Power[/]: the least effect that each contrast (of arms, cells, or a lattice's
    interpolation) detects with the held-out prompts, samples and seeds of the
    spec, and how many of each would find the effect that you look for. Spread comes from a finished run's grades, or from
    guesses, which are printed.

      sftfilter plan jobs/specs/quickstart.yaml --from runs/quickstart

      sftfilter plan my-spec.yaml --from runs/pilot --rows prompts=100000

      sftfilter plan my-spec.yaml --costs jobs/examples/costs.yaml --workers 32

      sftfilter plan my-spec.yaml --hardware H100-80G --utilisation training=0.4
    """
    from jobs.plan.hardware import Hardware
    from jobs.plan.plan import Stated
    from jobs.spec import load_spec

    with readable_errors():
        parsed = load_spec(spec, overrides or [])
        counts = workers or list(Stated.workers)
        named = Hardware.named(hardware, hardware_table, utilisation or []) if hardware else None
        if hardware is None and (hardware_table or utilisation):
            raise SpecError("--hardware-table and --utilisation say more of --hardware NAME; name a device")
        stated = Stated(
            run=run,
            file=costs,
            costs=cost or [],
            rows=_numbers("rows", rows or []),
            tokens=_numbers("tokens", tokens or []),
            parameters=_sizes(parameters or []),
            hardware=named,
            guesses=_guesses(guess or []),
            effects=effect or [],
            workers=counts,
        )
        show_plan(parsed, stated, as_json=as_json)


def show_plan(spec: JobSpec, stated: Stated | None = None, *, as_json: bool = False) -> None:
    """Print a spec's plan.

    Raises:
        SpecError, DataError: as `plan_spec`.
    """
    from rich.console import Console

    from jobs.plan.plan import Stated, plan_spec
    from jobs.plan.show import print_plan
    from jobs.run import results_root

    made = plan_spec(spec, results_root(spec), stated or Stated())
    if as_json:
        print(json.dumps(made.as_dict(), indent=2))
    else:
        print_plan(made, Console(highlight=False, width=_WIDTH))


def _numbers(option: str, stated: list[str]) -> dict[str, int]:
    found = {}
    for text in stated:
        name, _, value = text.rpartition("=")
        if not name or not value.isdigit() or not int(value):
            raise SpecError(f"--{option} {text}: expected NAME=NUMBER, such as prompts=100000")
        found[name] = int(value)
    return found


def _sizes(stated: list[str]) -> dict[str, float]:
    from jobs.plan.numbers import named_number

    found = {}
    for text in stated:
        model, size = named_number(text)
        if not model or not size:
            raise SpecError(f"--parameters {text}: expected MODEL=NUMBER, such as ORG/MODEL=9e9")
        found[model] = size
    return found


def _guesses(stated: list[str]) -> Guesses:
    from jobs.plan.designs import Guesses
    from jobs.spec import overridden

    try:
        return overridden(Guesses, {"rates": dict(Guesses().rates)}, stated)
    except SpecError as error:
        raise SpecError(f"--guess: {str(error).removeprefix(': ')}") from error
