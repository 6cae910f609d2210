"""Job `eval`: every model taken through every trait by Inspect; what was answered is kept, so that no answer is asked twice.

Answers lie in a journal below the results folder, a judge's as well. A run that was killed, or whose judge could not be
reached, goes on from there: what is known is told to Inspect again, and its logs are whole every time.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jobs.console import Stages
from jobs.eval_outcome import outcome_of, rates_table, write_eval
from jobs.evaluating import FOLLOWING
from jobs.finished_run import FinishedRun, read_run
from jobs.kinds.eval import Eval
from sftfilter import stats
from sftfilter.artifacts import Artifact, Store
from sftfilter.capability import InstructionFollowing, held_out_loss, loss_key
from sftfilter.chat_format import ChatFormat
from sftfilter.config import stable_hash
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import EvalError
from sftfilter.evaluation import Asked
from sftfilter.inspect_runs import Done, Subject, ask_with_inspect
from sftfilter.traits.contract import TraitSettings
from sftfilter.traits.judging import Judging
from sftfilter.traits.labelled import Quality, judge_quality


@dataclass(frozen=True)
class Target:
    """A model to be asked.

    Attributes:
        model_hash: what the endpoint must echo; None where anything goes.
    """

    subject: Subject
    model_hash: str | None = None


def run_eval(spec: Eval, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Ask, grade, write `root/<name>/`; answers eval.json.

    Raises:
        EvalError: answers or grades are missing since an endpoint or a judge was out of reach; the rest is written.
    """
    store, folder = Store(root / "artifacts"), root / spec.name
    run = read_run(Path(spec.run_folder)) if spec.run_folder else None
    traits = all_traits(spec)
    with stages.stage("judges", "the labelled answers that come with each trait") if spec.calibrate else _nothing():
        quality = asyncio.run(_qualities(spec, store)) if spec.calibrate else {}
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    losses: dict[str, Artifact] = {}
    logs: dict[str, list[str]] = {}
    notes: list[str] = []
    for name, found in quality.items():
        stages.say(f"{name}, {quality_words(found)}")
    with _targets(spec, run) as targets, stages.stage("evaluation", f"{', '.join(traits)} of {len(targets)} models"):
        if run is not None and spec.capability and spec.capability.loss:
            losses = _losses(run, (spec.serving or run.serving).dtype, targets, store)
        for target in targets:
            for name, trait in traits.items():
                made = _measure(spec, target, name, trait, store, folder / "logs", stages)
                rows[target.subject.model, name] = made.rows
                logs.setdefault(target.subject.model, []).append(made.log)
                notes += [f"{target.subject.model} on {name}: {note}" for note in made.notes]
    outcome = outcome_of(spec, traits, rows, losses, quality, logs, notes, stages, command)
    write_eval(folder, outcome, rows)
    stages.console.print(rates_table(outcome))
    stages.console.print(
        f"Results: {folder / 'eval.json'}\nLogs:    inspect view --log-dir {folder / 'logs'}", soft_wrap=True
    )
    _complain(outcome)
    return outcome


def all_traits(spec: Eval) -> dict[str, TraitSettings]:
    """The traits, and instructions beside them."""
    found: dict[str, TraitSettings] = dict(spec.traits)
    if spec.capability and spec.capability.instructions:
        found[FOLLOWING] = InstructionFollowing(kind="instruction_following", max_tokens=spec.capability.max_tokens)
    return found


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


async def _qualities(spec: Eval, store: Store) -> dict[str, Quality]:
    judging = Judging(store.root)
    try:
        return {name: await judge_quality(trait, trait.kind, judging) for name, trait in spec.traits.items()}
    finally:
        await judging.close()


@contextlib.contextmanager
def _targets(spec: Eval, run: FinishedRun | None) -> Iterator[list[Target]]:
    """The models behind a URL, or a run's own, hosted until the block ends."""
    if run is None:
        yield [Target(_subject(endpoint)) for endpoint in spec.endpoints()]
        return
    from serve.claims import private_name
    from serve.host import host

    chosen = run.chosen(spec.models)
    serving, key = spec.serving or run.serving, secrets.token_urlsafe(32)
    with host(chosen, serving, run.tokenizer, run.system_prompt, key, private_name(run.name)) as running:
        yield [
            Target(
                Subject(
                    model.id,
                    running.base_url,
                    key,
                    stable_hash([model.model_hash, model.format_hash, serving.dtype]),
                    direct=True,
                ),
                model.model_hash,
            )
            for model in chosen
        ]


def _subject(endpoint: Endpoint) -> Subject:
    from sftfilter.endpoint.client import api_key_of

    return Subject(endpoint.model, endpoint.base_url, api_key_of(endpoint), endpoint.answers_hash)


def _losses(run: FinishedRun, dtype: str, targets: Sequence[Target], store: Store) -> dict[str, Artifact]:
    from sftfilter.models import load_tokenizer

    chat = ChatFormat(load_tokenizer(run.tokenizer), run.system_prompt)
    found = {}
    for target in targets:
        model_hash = target.model_hash or ""
        asked = Asked(target.subject.base_url, target.subject.api_key, target.subject.model, model_hash)
        key = loss_key(model_hash, chat.hash, dtype, store)
        found[target.subject.model] = held_out_loss(asked, key, store=store, chat=chat)
    return found


def _measure(
    spec: Eval, target: Target, name: str, trait: TraitSettings, store: Store, logs: Path, stages: Stages
) -> Done:
    """One model on one trait, its rows complete."""
    episodes = trait.episodes()
    total = sum(len(e.turns) - e.graded_from for e in episodes) * trait.samples
    seen: dict[str, list[float]] = {}
    with stages.bar(total, f"{target.subject.model} {name}") as bar:

        def on_row(row: Mapping[str, Any]) -> None:
            bar.advance()
            if row["group"] == trait.primary and row["grade"] is not None:
                seen.setdefault(row["prompt_id"], []).append(row["grade"])
                bar.show(live_rate(seen))

        done = ask_with_inspect(
            trait, target.subject, store=store.root, logs=logs, concurrency=spec.concurrency, on_row=on_row
        )
    for note in done.notes:
        stages.say(f"{target.subject.model} on {name}: {note}")
    rows = [{**row, "student": target.subject.model, "trait": name, "log_odds": None} for row in done.rows]
    wrong = {r["model_hash"] for r in rows} - {target.model_hash} if target.model_hash else set()
    if wrong:
        raise EvalError(
            f"model {target.subject.model}: the endpoint answered with checkpoint {sorted(map(str, wrong))[0]}, expected "
            f"{target.model_hash}"
        )
    asked = len(episodes) * trait.samples
    answered = len({(r["prompt_id"], r["sample"]) for r in rows})
    rate = rate_of(seen)
    stages.event("rate", model=target.subject.model, trait=name, group=trait.primary, **rate.as_dict())
    told = f"{live_rate(seen) or 'nothing graded'}, {answered} of {asked} conversations"
    stages.say(f"{target.subject.model} on {name}: {told}")
    return replace(done, rows=rows)


def quality_words(found: Quality) -> str:
    """How far the judge can be trusted, in a line."""
    known = found.calibration
    if known is None:
        return f"graded by {found.judge}: not calibrated, {found.problem}"
    shares = [
        f"{name} {value.estimate:.0%} [{value.low:.0%}-{value.high:.0%}]"
        for name, value in (("sensitivity", known.sensitivity), ("specificity", known.specificity))
    ]
    lost = f", {sum(found.missing.values())} without a grade" if found.missing else ""
    return f"graded by {found.judge}: {', '.join(shares)} on {found.rows} labelled answers{lost}"


def rate_of(seen: Mapping[str, Sequence[float]]) -> stats.Estimate:
    """The rate so far with its interval, over prompts."""
    return stats.rate(np.array([[sum(values) / len(values)] for values in seen.values()]).reshape(-1, 1))


def live_rate(seen: Mapping[str, Sequence[float]]) -> str:
    """The same in words; nothing without a grade."""
    found = rate_of(seen)
    if found.estimate is None:
        return ""
    return f"{found.estimate:.0%} [{found.low:.0%}-{found.high:.0%}]"


def _complain(outcome: Mapping[str, Any]) -> None:
    """End with an error when something is missing that another run may get."""
    missing = outcome["missing"]
    if missing["unanswered"] or missing["unjudged"]:
        why = "; ".join(dict.fromkeys(missing["reasons"]))[:600]
        raise EvalError(
            f"{missing['unanswered']} conversations have no answer and {missing['unjudged']} answers no grade, since they "
            f"could not be had: {why}\nThey are missing, not zero. Run the same command again: what was answered is kept."
        )
