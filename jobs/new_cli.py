"""`sftfilter new`: a first spec, by asking or by flags."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.run import readable_errors
from sftfilter.errors import SpecError
from sftfilter.models import BUILTIN


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(new)


def new(
    output: Annotated[Path, typer.Argument(help="the spec to write, such as my-spec.yaml", metavar="SPEC")],
    kind: Annotated[str, typer.Option(help="score, decide, train or experiment")] = "decide",
    teacher: Annotated[
        list[str] | None, typer.Option(help="answers: NAME=PATH (repeatable; the first one's rows are filtered)")
    ] = None,
    term: Annotated[list[str] | None, typer.Option(help="expression of the naive filter (repeatable)")] = None,
    base_model: Annotated[str, typer.Option(help="a local folder or a hub id")] = BUILTIN,
    prompts: Annotated[str | None, typer.Option(help="experiment: training prompts")] = None,
    heldout: Annotated[str | None, typer.Option(help="experiment: prompts that the trait is measured on")] = None,
    force: Annotated[bool, typer.Option("--force", help="write over a file that is there")] = False,
) -> None:
    """Write a commented spec for your own data, and try it: it is validated, and the first row of every file is read.

    Without --teacher it asks, if there is a terminal. Paths may be files, folders, globs, s3://, gs:// or hf://; relative
    ones start at the spec's folder.
    """
    with readable_errors():
        if output.exists() and not force:
            raise SpecError(f"{output} is there already; choose another name, or --force")
        if not teacher:
            if not sys.stdin.isatty():
                raise SpecError("--teacher NAME=PATH is missing, and there is no terminal to ask at")
            kind, teacher, term, base_model, prompts, heldout = _ask(kind, base_model)
        _write(output, kind, teacher, term, base_model, prompts, heldout)


def _ask(kind: str, base_model: str) -> tuple[str, list[str], list[str], str, str | None, str | None]:
    kind = typer.prompt("Kind (score, decide, train, experiment)", default=kind)
    teachers = [f"T={typer.prompt('Answers to filter: file, folder, glob or URI')}"]
    other = typer.prompt("Another teacher's answers to the same prompts (empty: none)", default="", show_default=False)
    teachers += [f"C={other}"] if other else []
    term = typer.prompt("An expression that a naive filter would look for", default=r"\bdoubt")
    prompts = heldout = None
    if kind in ("train", "experiment"):
        base_model = typer.prompt("Base model", default=base_model)
    if kind == "experiment":
        prompts, heldout = typer.prompt("Training prompts"), typer.prompt("Held-out prompts")
    return kind, teachers, [term], base_model, prompts, heldout


def _write(
    output: Path,
    kind: str,
    teacher: list[str],
    term: list[str] | None,
    base_model: str,
    prompts: str | None,
    heldout: str | None,
) -> None:
    from pydantic import TypeAdapter

    from jobs.kinds import KINDS
    from jobs.new_spec import Wanted, first_rows, text_of
    from jobs.spec import load_spec

    named = [entry.partition("=") for entry in teacher]
    if broken := [entry for entry, (_, equals, path) in zip(teacher, named, strict=True) if not equals or not path]:
        raise SpecError(f"--teacher {broken[0]}: expected NAME=PATH, such as T=answers.jsonl")
    teachers = {name: path for name, _, path in named}
    chosen = {"terms": list(term)} if term else {}
    wanted = Wanted(kind, output.stem, teachers, base_model=base_model, prompts=prompts, heldout=heldout, **chosen)
    text = text_of(wanted)
    read = first_rows(wanted, output.resolve().parent)
    partial = output.with_name(f".{output.name}")
    try:
        partial.write_text(text)
        parsed = load_spec(partial)
    finally:
        partial.unlink(missing_ok=True)
    output.write_text(text)
    schema = output.resolve().parent / ".sftfilter" / f"{kind}.schema.json"
    schema.parent.mkdir(exist_ok=True)
    schema.write_text(json.dumps(TypeAdapter(KINDS[kind]).json_schema(), indent=2))
    print("\n".join(["first rows:", *(f"  {line}" for line in read)]))
    print(f"wrote {output}: {parsed.kind} '{parsed.name}', {parsed.summary()}")
    print(f"next: sftfilter {'run' if kind in ('train', 'experiment') else kind} {output}")
