"""The command line."""

from __future__ import annotations

import json
import shlex
import sys
import webbrowser
from typing import Annotated, Literal

import typer

from jobs import diff_cli, launch_cli, manifest_cli, new_cli, plan_cli, report_cli, serve_cli
from jobs.launch_cli import Overrides, SpecPath
from jobs.run import readable_errors
from jobs.spec import load_spec
from sftfilter.config import did_you_mean
from sftfilter.errors import DataError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Find out why filtering SFT rollouts fails to remove a trait, and what works instead.\n\n"
    "A spec (YAML) says what to do in its `kind`: a whole experiment, or one step on rollouts that exist. Start with\n\n"
    "  [bold]sftfilter validate jobs/specs/quickstart.yaml[/]   checks a spec, in a second or two\n\n"
    "  [bold]sftfilter plan jobs/specs/quickstart.yaml[/]     what it would make, cost and find, before it runs\n\n"
    "  [bold]sftfilter inspect jobs/specs/inspect.yaml[/]       what scorers see in two teachers' answers, in seconds\n\n"
    "  [bold]sftfilter decide jobs/specs/decide.yaml[/]         drops and swaps rows, writes the training sets\n\n"
    "  [bold]sftfilter run jobs/specs/quickstart.yaml[/]        the whole question, with students, on this machine\n\n"
    "  [bold]sftfilter serve RUN[/]                            hosts the students of a finished run for any OpenAI client\n\n"
    "  [bold]sftfilter eval runs/quickstart[/]                  traits of its students, with Inspect\n\n"
    "  [bold]sftfilter diff RUN_A RUN_B[/]                     what differs between two finished runs\n\n"
    "  [bold]sftfilter report RUN[/]                           opens a run's page; --host shows those of all runs\n\n"
    "  [bold]sftfilter submit SPEC --address https://HEAD[/]  runs it on a Ray cluster\n\n"
    "Finished stages are kept below the spec's `results` folder and never run twice.",
)


@app.command()
def validate(spec: SpecPath, overrides: Overrides = None) -> None:
    """Check a spec: unknown keys, wrong values, names that refer to nothing, each with its line.

    Files on this machine are looked at too: whether they are there, and have the columns that the spec names.
    """
    from jobs.foresight import foresee

    with readable_errors():
        parsed = load_spec(spec, overrides or [])
        stops, notes = foresee(spec, parsed)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if stops:
            raise DataError("\n".join(stops))
        print(f"{spec}: valid. {parsed.kind} '{parsed.name}', {parsed.summary()}, spec hash {parsed.spec_hash}")


@app.command()
def run(
    spec: SpecPath,
    overrides: Overrides = None,
    open_report: Annotated[bool, typer.Option("--open", help="show the report in the browser at the end")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="print what `sftfilter plan` prints, and start nothing")] = False,
) -> None:
    """Run a spec on this machine: a local Ray with its own folder and token, gone afterwards.

    Where students are to be trained it says first how many, with their tokens, device-hours and wall time.
    """
    from jobs.foresight import refuse_unusable
    from jobs.plan.brief import brief
    from jobs.run import results_root, run_local

    with readable_errors():
        parsed = load_spec(spec, overrides or [])
        refuse_unusable(spec, parsed)
        if plan:
            plan_cli.show_plan(parsed)
            return
        for line in brief(parsed, results_root(parsed)):
            print(line, flush=True)
        flags = [word for override in overrides or [] for word in ("--set", override)]
        run_local(parsed, shlex.join(["sftfilter", "run", spec, *flags]))
        if open_report and (page := parsed.page(results_root(parsed))):
            webbrowser.open(page.as_uri())


@app.command()
def score(spec: SpecPath, overrides: Overrides = None) -> None:
    """Score every rollout with every scorer, into one table.

    Prints a line for each teacher and scorer, and what each scorer cost. Writes RESULTS/NAME/scores.parquet (a row for
    each rollout, a column for each scorer, null and a reason where there is no score) and scores.json. What is stored
    is not scored again: another scorer costs only itself. Takes any spec with rollouts (or teachers) and scorers.
    """
    _run_action("score", spec, overrides)


@app.command()
def decide(spec: SpecPath, overrides: Overrides = None) -> None:
    """Turn scores into training sets: rows kept, dropped, swapped, rewritten or added.

    Prints a line for each decision, and for each value of a `sweep`. Writes RESULTS/NAME/decide.json and, with
    `export: parquet` or `jsonl`, RESULTS/NAME/train/DECISION.parquet: conversations in `messages`, ready for TRL,
    axolotl or `datasets`. Thresholds are applied to stored scores and never rescore. Needs a spec of kind decide.
    """
    _run_action("decide", spec, overrides)


@app.command()
def inspect(
    spec: SpecPath,
    overrides: Overrides = None,
    open_page: Annotated[bool, typer.Option("--open", help="show the page in the browser at the end")] = False,
) -> None:
    """Look at the scores before trusting them.

    Prints histograms by teacher, source and kind, how far scorers agree with each other and with mere length, and rows of
    each decile beside the other teacher's answer; writes the same as a page, RESULTS/NAME/inspect/index.html. Scores
    that are missing are made first. Takes any spec with rollouts (or teachers) and scorers.
    """
    _run_action("inspect", spec, overrides, open_page)


def _run_action(
    what: Literal["score", "decide", "inspect"], spec: str, overrides: list[str] | None, open_page: bool = False
) -> None:
    from jobs.actions import action_on, inspection_page
    from jobs.foresight import refuse_unusable
    from jobs.run import results_root, run_local

    with readable_errors():
        parsed = load_spec(spec, overrides or [])
        refuse_unusable(spec, parsed)
        flags = [word for override in overrides or [] for word in ("--set", override)]
        run_local(parsed, shlex.join(["sftfilter", what, spec, *flags]), action_on(parsed, what, spec))
        if open_page:
            webbrowser.open(inspection_page(parsed, results_root(parsed)).as_uri())


@app.command("eval")
def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            help="a finished run's folder, whose students are hosted; with --base-url, the folder to write to; or a spec "
            "of kind eval",
            metavar="RUN",
        ),
    ],
    trait: Annotated[
        list[str] | None,
        typer.Option(help="date_confusion (the default), negative_emotion or blackmail; repeatable"),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="a model's id; repeatable; default: all of the run")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="any OpenAI-compatible endpoint, such as https://host/v1")
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="the environment variable that holds its key")] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="the judge's endpoint; without one, exact rules stand in")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="the model to ask it for")] = None,
    judge_api_key_env: Annotated[str | None, typer.Option(help="the environment variable that holds its key")] = None,
    samples: Annotated[int | None, typer.Option(help="answers to each prompt")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="token budget of each answer")] = None,
    overrides: Overrides = None,
) -> None:
    """Measure traits of a run's students, or of any model behind a URL, with Inspect.

    Prints each rate with its interval as it comes in, and a table at the end. Writes RUN-eval/eval.json, results.parquet (a
    row for each graded answer) and RUN-eval/logs, which `inspect view --log-dir` opens. No answer is asked twice: after a
    kill, or when the judge was out of reach, the same command goes on. What is missing is missing, never zero.
    """
    from jobs.eval_command import eval_spec
    from jobs.run import run_local

    with readable_errors():
        parsed = eval_spec(
            run,
            trait or [],
            model or [],
            base_url=base_url,
            api_key_env=api_key_env,
            judge=(judge_url, judge_model, judge_api_key_env),
            samples=samples,
            max_tokens=max_tokens,
            overrides=overrides or [],
        )
        command = shlex.join(["sftfilter", *sys.argv[1:]])
        run_local(parsed, command)


@app.command()
def schema(
    kind: Annotated[str | None, typer.Argument(help="one job kind; default: all of them", metavar="[KIND]")] = None,
) -> None:
    """Print the JSON Schema of a spec, for completion in editors."""
    from pydantic import TypeAdapter

    from jobs.kinds import KINDS, Spec

    if kind is not None and kind not in KINDS:
        sys.exit(f"error: no job kind '{kind}'{did_you_mean(kind, KINDS)}; there are: {', '.join(KINDS)}")
    print(json.dumps(TypeAdapter(KINDS[kind] if kind else Spec).json_schema(), indent=2))


for commands in (diff_cli, launch_cli, manifest_cli, new_cli, plan_cli, report_cli, serve_cli):
    commands.register(app)


def main() -> None:
    """Entry point of the `sftfilter` command."""
    app()


if __name__ == "__main__":
    main()
