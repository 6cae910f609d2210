"""Stage: rollouts from an endpoint. Prompts stream through Ray Data actors that each have many requests under way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.actor_failures import raise_failure, with_failure
from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import SftfilterError
from sftfilter.generated import ATTEMPTS, Drawn, asked, few_missing, generated_table, write_generated
from sftfilter.journal import Journal, journal_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.endpoint.client import ChatRequest
    from sftfilter.endpoint.replies import Answer, Failure
    from sftfilter.generating import EndpointTeacher
    from sftfilter.generation import Pool

VERSION = 2
_ROUNDS = 8
"""Requests an actor is handed at a time, as a multiple of those it has under way: few wait for the last of a batch."""


class EndpointAnswerer:
    """Ray Data actor: prompts in, rows of `generated_table` out."""

    def __init__(self, drawn: Drawn, teacher: EndpointTeacher, journal: str) -> None:
        from sftfilter.endpoint.client import BlockingClient

        self.drawn = drawn
        self.omitted = teacher.endpoint.omit
        self.failure: SftfilterError | None = None
        try:
            self.client = BlockingClient(teacher.endpoint, Journal(Path(journal)))
        except SftfilterError as error:
            self.failure = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows: list[dict[str, Any]] = []
        try:
            if self.failure:
                raise self.failure
            rows = self._answer(batch.to_pylist())
        except SftfilterError as error:
            self.failure = error
        return with_failure(generated_table([{}] if self.failure else rows), self.failure)

    def _answer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        from sftfilter.endpoint.replies import Answer

        always_same = self.drawn.temperature == 0 and "temperature" not in self.omitted
        outcomes: list[Answer | Failure | None] = [None] * len(rows)
        seeds = [0] * len(rows)
        pending = list(range(len(rows)))
        for attempt in range(ATTEMPTS):
            for i in pending:
                seeds[i] = self.drawn.seed_of(rows[i], attempt)
            found = self.client.ask_all([self._request(rows[i], seeds[i]) for i in pending])
            for i, outcome in zip(pending, found, strict=True):
                outcomes[i] = outcome
            pending = [i for i, o in zip(pending, found, strict=True) if isinstance(o, Answer) and not o.text.strip()]
            if not pending or always_same:
                break
        return [self._row(*row) for row in zip(rows, outcomes, seeds, strict=True)]

    def _request(self, row: dict[str, Any], seed: int) -> ChatRequest:
        from sftfilter.endpoint.client import ChatRequest

        drawn = self.drawn
        return ChatRequest(drawn.turns(row), drawn.max_tokens, drawn.temperature, seed, drawn.top_p)

    def _row(self, row: dict[str, Any], outcome: Answer | Failure | None, seed: int) -> dict[str, Any]:
        from sftfilter.endpoint.replies import Answer, Failure

        if isinstance(outcome, Answer):
            model = "@".join(part for part in (outcome.model, outcome.fingerprint) if part) or "not named by the server"
            made = self.drawn.row(row, outcome.text, outcome.finish_reason, seed, model, None)
            made["generation"] |= dict.fromkeys(self.omitted)  # what was not sent did not decide the answer
            return made
        return self.drawn.failed(row, outcome.reason if isinstance(outcome, Failure) else "was not asked")


def ask_teacher(
    drawn: Drawn, teacher: EndpointTeacher, prompts: Artifact, *, store: Store, pool: Pool, error_budget: float
) -> Artifact:
    """Tables `rollouts` and `quarantine` (prompts without an answer, with the reason).

    Args:
        error_budget: share of the answers that may be missing. Where more are missing of those that an earlier run
            settled for, what failed is asked again.

    Raises:
        EvalError: the endpoint cannot be used as it stands. DataError: too many prompts have no answer.
            Either way the answers that arrived are kept, and are not asked for again.
    """

    def make(folder: Path) -> dict[str, Any]:
        table = asked(prompts, teacher.samples)
        journal = journal_folder(store.root, teacher.endpoint.answers_hash)
        batches = _stream(drawn, teacher, table, journal, pool)
        return write_generated(folder, drawn.teacher, batches, expected=table.num_rows, error_budget=error_budget)

    settings = {
        "teacher": drawn.teacher,
        "kind": teacher.kind,
        "endpoint": teacher.endpoint.answers_hash,
        "samples": teacher.samples,
        "drawn": [drawn.system_prompt, drawn.temperature, drawn.top_p, drawn.max_tokens, drawn.seed],
    }
    return store.build(
        "rollouts",
        version=VERSION,
        settings=settings,
        inputs={"prompts": prompts.key},
        make=make,
        final=lambda meta: few_missing(meta, error_budget),
    )


def _stream(drawn: Drawn, teacher: EndpointTeacher, table: pa.Table, journal: Path, pool: Pool) -> Iterator[pa.Table]:
    import ray.data

    batch = teacher.endpoint.concurrency * _ROUNDS
    blocks = max(1, min(table.num_rows, pool.max_actors * 2), -(-table.num_rows // batch))
    rows = ray.data.from_arrow(table).repartition(blocks)
    answered = rows.map_batches(
        EndpointAnswerer,
        fn_constructor_args=(drawn, teacher, str(journal)),
        batch_size=batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
        num_cpus=pool.cpus_per_actor,
    )
    batches: Any = answered.iter_batches(batch_size=None, batch_format="pyarrow")
    for found in batches:
        raise_failure(found)
        yield found.drop_columns(["failure", "why"])
