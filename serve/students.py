"""The deployment that holds students: loaded by id on demand, evicted least recently used first, answering in batches.

Ray Serve collects concurrent requests and splits them by model id. Batches that arrive while a forward pass runs are
merged into the next one, so a slow trickle of arrivals does not become a queue of half-empty batches.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray import serve

from serve.forward import BrokenCheckpointError, Vocabulary, answer_all, brief, open_checkpoint, use_threads
from serve.settings import HostedModel, ServingSettings
from serve.work import Answer, Failure, Work

if TYPE_CHECKING:
    from ray.serve.deployment import Deployment

    from sftfilter.engine import Engine

DEPLOYMENT = "Students"
_REMEMBER_BROKEN_S = 60.0


@dataclass(eq=False)
class Ticket:
    """A request's place in its model's line."""

    work: Work
    abandoned: bool = False
    result: list[Answer] | Failure = field(default_factory=list)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    since: float = field(default_factory=time.monotonic)

    def finish(self, result: list[Answer] | Failure) -> None:
        """Hand over the result."""
        self.result = result
        self.finished.set()


@dataclass
class Statistics:
    """What a replica did since it started."""

    passes: int = 0
    sequences: int = 0
    loads: int = 0
    largest_pass: int = 0


class StudentPool:
    """Everything about answering that needs no Serve; the deployment adds batching and the cache of models.

    One thread does all the work: a second forward pass would only compete for the same cores or GPU, and the event
    loop stays free for health checks.

    Args:
        fetch: the model with this id, from the deployment's cache or through `load`.
    """

    def __init__(
        self,
        models: Sequence[HostedModel],
        settings: ServingSettings,
        vocabulary: Vocabulary,
        fetch: Callable[[str], Awaitable[Engine]],
    ) -> None:
        self.models = {model.id: model for model in models}
        self.settings = settings
        self.vocabulary = vocabulary
        self.fetch = fetch
        self.done = Statistics()
        self._lines: dict[str, deque[Ticket]] = {}
        self._running: asyncio.Task[None] | None = None
        self._broken: dict[str, tuple[float, str]] = {}
        # Ray sets OMP_NUM_THREADS from the CPUs a replica reserves, which are few: see ServingSettings.threads.
        self._worker = ThreadPoolExecutor(1, "student", use_threads, (settings.threads,))

    async def load(self, model_id: str) -> Engine:
        """Read a checkpoint into memory."""
        self.done.loads += 1
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._worker, open_checkpoint, self.models[model_id], self.settings, self.vocabulary
        )

    async def answer(self, model_id: str, tickets: list[Ticket]) -> list[list[Answer] | Failure]:
        """Results in the order of the tickets, all for one model."""
        self._lines.setdefault(model_id, deque()).extend(tickets)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        for ticket in tickets:
            await ticket.finished.wait()
        return [ticket.result for ticket in tickets]

    async def _run(self) -> None:
        """Passes one after the other, for whoever waits longest, until nobody does.

        A model is fetched only here. So eviction never meets a request in flight, and memory never holds more than
        `models_in_memory` students, however many ids are waiting.
        """
        while waiting := [model_id for model_id, line in self._lines.items() if line]:
            model_id = min(waiting, key=lambda name: self._lines[name][0].since)
            await self._until_settled(self._lines[model_id])
            await self._run_next(model_id, self._lines[model_id])

    async def _until_settled(self, line: deque[Ticket]) -> None:
        """Clients often send a whole wave at once, which the HTTP side passes on over a few tenths of a second."""
        before = -1
        while before < len(line) < self.settings.max_batch:
            before = len(line)
            await asyncio.sleep(self.settings.batch_wait_s / 2)

    async def _run_next(self, model_id: str, line: deque[Ticket]) -> None:
        batch = _take(line, self.settings.max_batch)
        # Stands if the pass is cancelled: nobody may wait for ever.
        stopped = Failure(503, f"model '{model_id}': the replica is shutting down", "unavailable", retry_after_s=5)
        results: Sequence[list[Answer] | Failure] = [stopped] * len(batch)
        try:
            results = await self._results(model_id, [ticket.work for ticket in batch])
        finally:
            for ticket, result in zip(batch, results, strict=True):
                ticket.finish(result)

    async def _results(self, model_id: str, works: list[Work]) -> Sequence[list[Answer] | Failure]:
        if not works:
            return []
        try:
            engine = await self._healthy_student(model_id)
            answers = await asyncio.get_running_loop().run_in_executor(self._worker, answer_all, engine, works)
        except BrokenCheckpointError as error:
            return [Failure(500, str(error), "model_broken")] * len(works)
        except Exception as error:  # out of memory, a device error: these requests fail, the replica goes on
            return [Failure(500, f"model '{model_id}': {brief(error)}", "generation_failed")] * len(works)
        self.done.passes += 1
        self.done.sequences += (size := sum(len(work.sequences) for work in works))
        self.done.largest_pass = max(self.done.largest_pass, size)
        return answers

    async def _healthy_student(self, model_id: str) -> Engine:
        # Remembered for a while: every attempt to load a broken checkpoint would evict a healthy student first.
        when, reason = self._broken.get(model_id, (-_REMEMBER_BROKEN_S, ""))
        if time.monotonic() - when < _REMEMBER_BROKEN_S:
            raise BrokenCheckpointError(reason)
        try:
            return await self.fetch(model_id)
        except BrokenCheckpointError as error:
            self._broken[model_id] = (time.monotonic(), str(error))
            raise


def students(settings: ServingSettings) -> Deployment:
    """The Serve deployment, to be bound to (models, settings, vocabulary)."""

    class Students(StudentPool):
        """Answers `Work` for the model id that the handle's options name."""

        def __init__(self, models: Sequence[HostedModel], settings: ServingSettings, vocabulary: Vocabulary) -> None:
            super().__init__(models, settings, vocabulary, self.student)  # pyright: ignore[reportArgumentType]

        @serve.multiplexed(max_num_models_per_replica=settings.models_in_memory)
        async def student(self, model_id: str) -> Any:  # an Engine; Serve evaluates no forward references
            return await self.load(model_id)

        @serve.batch(
            max_batch_size=settings.max_batch,
            batch_wait_timeout_s=settings.batch_wait_s / 2,  # the other half is spent in the line
            # Not a limit on passes, which take turns: batches must reach the line in order to be merged there.
            max_concurrent_batches=settings.ongoing_per_replica,
        )
        async def _gather(self, tickets: list[Ticket]) -> list[list[Answer] | Failure]:
            return await self.answer(serve.get_multiplexed_model_id(), tickets)  # Serve splits batches by model id

        async def generate(self, work: Work) -> list[Answer] | Failure:
            if serve.get_multiplexed_model_id() not in self.models:
                return Failure(404, "no such model", "model_not_found")
            ticket = Ticket(work)
            try:
                return await self._gather(ticket)  # pyright: ignore[reportCallIssue, reportArgumentType]
            finally:
                ticket.abandoned = True  # a client that hung up costs no forward pass

        async def statistics(self) -> Statistics:
            return self.done

    return serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=settings.ongoing_per_replica,
        max_queued_requests=settings.max_queued_requests,
        ray_actor_options={"num_cpus": settings.cpus_per_replica, "num_gpus": 1 if settings.use_gpu else 0},
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=10,
        **_scaling(settings),
    )(Students)


def _scaling(settings: ServingSettings) -> dict[str, Any]:
    if settings.max_replicas == settings.min_replicas:
        return {"num_replicas": settings.min_replicas}
    limits = {"min_replicas": settings.min_replicas, "max_replicas": settings.max_replicas}
    return {"autoscaling_config": limits | {"target_ongoing_requests": settings.max_batch}}


def _take(line: deque[Ticket], limit: int) -> list[Ticket]:
    """The next tickets with at most `limit` sequences between them (the first may have more: the engine splits it)."""
    taken: list[Ticket] = []
    size = 0
    while line and (not taken or size + len(line[0].work.sequences) <= limit):
        ticket = line.popleft()
        if ticket.abandoned:
            ticket.finish([])
            continue
        taken.append(ticket)
        size += len(ticket.work.sequences)
    return taken
