"""A trait run by Inspect on one model: a whole log each time, from a journal that knows every answer given before."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.disk import disk_errors
from sftfilter.endpoint.direct import around_proxies, on_this_machine
from sftfilter.errors import EvalError
from sftfilter.journal import Journal, journal_folder
from sftfilter.traits.contract import TraitSettings
from sftfilter.traits.judging import Judging

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

    from sftfilter.traits.inspecting import OnRow

_PROVIDER = "openai-api/sftfilter"
_RETRIES = 4
_TIMEOUT_S = 900


@dataclass(frozen=True)
class Subject:
    """A model behind an OpenAI-compatible endpoint.

    Attributes:
        identity: changes with what answers, and with nothing else: the journal's name for it.
        direct: we host it: the environment's proxies are left out, as for loopback addresses.
    """

    model: str
    base_url: str
    api_key: str = field(repr=False)
    identity: str
    direct: bool = False


@dataclass(frozen=True)
class Done:
    """Rows of table `results` (without student, trait and log-odds), the log, and what a person should know."""

    rows: list[dict[str, Any]]
    log: str
    notes: list[str]


def ask_with_inspect(
    trait: TraitSettings, subject: Subject, *, store: Path, logs: Path, concurrency: int, on_row: OnRow | None = None
) -> Done:
    """Run the trait's task. Conversations that fail are missing from the rows, and the notes say why.

    Args:
        store: folder below which the journals lie.
        logs: folder of Inspect's logs.

    Raises:
        EvalError: Inspect itself failed.
        KeyboardInterrupt: it was interrupted; what was answered is in the journal.
    """
    import inspect_ai
    from inspect_ai.model import GenerateConfig, get_model

    from sftfilter.traits.inspecting import inspect_task

    journal = Journal(journal_folder(store, subject.identity))
    judging = Judging(store)
    task = inspect_task(trait, subject=subject.identity, journal=journal, judging=judging, on_row=on_row)
    config = GenerateConfig(max_connections=concurrency, max_retries=_RETRIES, timeout=_TIMEOUT_S)
    name, url, key = f"{_PROVIDER}/{subject.model}", subject.base_url, subject.api_key
    direct = subject.direct or on_this_machine(url)
    with disk_errors(logs), around_proxies(url) if direct else nullcontext():
        model = get_model(name, base_url=url, api_key=key, config=config, memoize=False)
        logs.mkdir(parents=True, exist_ok=True)
        made = inspect_ai.eval(
            task,
            model=model,
            log_dir=str(logs),
            display="none",
            log_level="error",
            fail_on_error=False,
            max_samples=concurrency,
            # The journal keeps what was answered, and the bar shows the rates: Inspect need do neither, at twice the cost.
            log_realtime=False,
            score_display=False,
        )
    journal.close()
    judging.close_journals()
    if not made or made[0].status == "cancelled":  # Inspect takes Ctrl-C for itself, and answers as if it were done
        raise KeyboardInterrupt
    return _read(made[0], judging)


def _read(log: EvalLog, judging: Judging) -> Done:
    if log.status != "success":
        reason = log.error.message if log.error else log.status
        raise EvalError(f"Inspect did not finish {log.eval.task} of {log.eval.model}: {reason}; see {log.location}")
    rows: list[dict[str, Any]] = []
    failed: dict[str, int] = {}
    for sample in log.samples or []:
        if sample.error is not None:
            reason = reason_of(sample.error.message)
            failed[reason] = failed.get(reason, 0) + 1
        for score in (sample.scores or {}).values():
            rows += (score.metadata or {}).get("rows", [])
    notes = [f"{count} conversations without an answer: {reason}" for reason, count in failed.items()]
    return Done([_typed(row) for row in rows], log.location, notes + judging.trouble)


def reason_of(message: str) -> str:
    """What the model's server said, out of an error of Inspect, which holds the whole request: prompts stay in the log."""
    said = message.rsplit("\\n\\n", 1)[-1] if message.startswith("ModelGenerateError") else message.splitlines()[0]
    return said.replace("\\", "").rstrip("'\")")[:300]


def _typed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the log has it, with the pairs of maps as pairs again."""
    pairs = {name: [tuple(pair) for pair in row[name]] for name in ("measures", "labels")}
    return {**row, **pairs}
