"""The command that hosts the students of a finished run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.launch_cli import Overrides, Results
from jobs.run import readable_errors

if TYPE_CHECKING:
    from jobs.kinds.serve import Serve


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(serve)


def serve(
    run: Annotated[str, typer.Argument(help="a finished run: its folder, or its name below --results", metavar="RUN")],
    results: Results = Path("runs"),
    models: Annotated[
        list[str] | None, typer.Option("--model", help="serve this model (repeatable); default: all")
    ] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on; default 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="0 picks a free one; default 8123")] = None,
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option(help="write a config for `serve deploy` to this file instead", metavar="FILE")
    ] = None,
) -> None:
    """Host every student of a finished run behind one OpenAI-compatible endpoint, until Ctrl-C.

    Prints the base URL for clients, the file with the bearer token (SFTFILTER_API_KEY, if set, is the token) and the
    model ids, ARM-sSEED. LoRA students share one copy of their base; others are loaded when they are asked for. With
    --config nothing is started: the file is for `serve deploy FILE` on a cluster whose nodes have this package.
    Settings of the endpoint are changed with --set serving.max_batch=32 and the like.
    """
    from jobs.run import results_root, run_local
    from jobs.serving import hosted_of, write_config

    with readable_errors():
        spec = _spec(run, results, models, {"host": host, "port": port}, overrides or [])
        if config is None:
            hosted_of(spec, results_root(spec))  # what cannot be served is said before anything starts
            run_local(spec, shlex.join(["sftfilter", "serve", run]))
            return
        token = write_config(spec, results_root(spec), config)
        print(f"{config}: for `serve deploy {config}`; token in {token}")


def _spec(run: str, results: Path, models: list[str] | None, given: dict[str, Any], overrides: list[str]) -> Serve:
    from jobs.kinds.serve import Serve
    from jobs.spec import overridden

    folder = Path(run) if (Path(run).is_dir() or "/" in run) else results / run
    data: dict[str, Any] = {"kind": "serve", "name": folder.name, "results": str(folder.resolve().parent)}
    data |= {"models": models or None, "serving": {k: v for k, v in given.items() if v is not None}}
    return overridden(Serve, data, overrides)
