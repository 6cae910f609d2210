"""The pool of students without Serve: how requests share passes, and what a broken checkpoint costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

from serve.forward import BrokenCheckpointError, Vocabulary
from serve.settings import HostedModel, ServingSettings
from serve.students import StudentPool, Ticket
from serve.work import Answer, Failure, Work
from sftfilter.engine import Continuation, Engine, GenerateRequest


class EchoEngine:
    """Answers every prompt with itself; waits for `go` so that a test can let requests pile up."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.waiting = threading.Event()
        self.batches: list[int] = []

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Continuation]:
        self.waiting.set()
        self.go.wait(10)
        self.batches.append(len(requests))
        if any(request.prompt_ids == [13] for request in requests):
            raise MemoryError
        return [Continuation(request.prompt_ids, "stop") for request in requests]

    def token_logprobs(self, sequences: Sequence[list[int]], start: Sequence[int]) -> list[list[float]]:
        return [[-float(token) for token in ids[at:]] for ids, at in zip(sequences, start, strict=True)]


def make_pool(engine: EchoEngine, max_batch: int = 8) -> StudentPool:
    models = [HostedModel(id=name, folder="/", model_hash="", format_hash="") for name in ("a", "b", "broken")]
    fetched: list[str] = []

    async def fetch(model_id: str) -> Engine:
        fetched.append(model_id)
        if model_id == "broken":
            raise BrokenCheckpointError(f"model '{model_id}': truncated")
        return cast(Engine, engine)

    pool = StudentPool(models, ServingSettings(max_batch=max_batch), Vocabulary(0, 0), fetch)
    cast(Any, pool).fetched = fetched
    return pool


def ticket(*prompts: int, max_tokens: int = 4, logprobs: Any = "none") -> Ticket:
    return Ticket(Work([GenerateRequest([p], max_tokens) for p in prompts], logprobs))


def test_requests_that_arrive_together_share_a_pass() -> None:
    engine = EchoEngine()

    async def main() -> list[Any]:
        pool = make_pool(engine)
        calls = [asyncio.create_task(pool.answer("a", [ticket(i)])) for i in range(7)]
        engine.go.set()
        return [(await call)[0] for call in calls]

    assert asyncio.run(main()) == [[Answer([i], "stop")] for i in range(7)]
    assert engine.batches == [7]  # the pool waits until no more arrive


def test_requests_that_arrive_during_a_pass_share_the_next_one() -> None:
    engine = EchoEngine()

    async def main() -> None:
        pool = make_pool(engine)
        calls = [asyncio.create_task(pool.answer("a", [ticket(0)]))]
        while not engine.waiting.is_set():
            await asyncio.sleep(0.01)
        for i in range(1, 7):
            calls.append(asyncio.create_task(pool.answer("a", [ticket(i)])))
            await asyncio.sleep(0.01)
        engine.go.set()
        await asyncio.gather(*calls)

    asyncio.run(main())
    assert engine.batches == [1, 6]


def test_an_answer_does_not_wait_for_another_model() -> None:
    engine = EchoEngine()
    engine.go.set()

    async def main() -> list[str]:
        pool = make_pool(engine)
        finished: list[str] = []

        async def one(model_id: str, name: str) -> None:
            await pool.answer(model_id, [ticket(1)])
            finished.append(name)

        await asyncio.gather(one("a", "first"), one("b", "other"), one("a", "merged"))
        return finished

    assert asyncio.run(main()) == ["first", "merged", "other"]
    assert engine.batches == [2, 1]


def test_a_pass_holds_at_most_max_batch_sequences_unless_one_request_has_more() -> None:
    engine = EchoEngine()
    engine.go.set()
    tickets = [ticket(1, 2), ticket(3, 4), ticket(*range(20, 30)), ticket(5)]
    asyncio.run(make_pool(engine, max_batch=4).answer("a", tickets))
    assert engine.batches == [4, 10, 1]


def test_an_abandoned_request_costs_no_pass() -> None:
    engine = EchoEngine()
    engine.go.set()
    gone, here = ticket(1), ticket(2)
    gone.abandoned = True
    results = asyncio.run(make_pool(engine).answer("a", [gone, here]))
    assert engine.batches == [1]
    assert results == [[], [Answer([2], "stop")]]


def test_a_broken_checkpoint_fails_its_requests_and_is_not_loaded_again_at_once() -> None:
    engine = EchoEngine()
    engine.go.set()

    async def main() -> tuple[Any, ...]:
        pool = make_pool(engine)
        first = await pool.answer("broken", [ticket(1)])
        second = await pool.answer("broken", [ticket(1)])
        return first[0], second[0], (await pool.answer("a", [ticket(2)]))[0], cast(Any, pool).fetched

    first, second, other, fetched = asyncio.run(main())
    assert first == second == Failure(500, "model 'broken': truncated", "model_broken")
    assert other == [Answer([2], "stop")]
    assert fetched == ["broken", "a"]


def test_a_failing_pass_fails_its_own_requests_only() -> None:
    engine = EchoEngine()
    engine.go.set()

    async def main() -> tuple[Any, Any]:
        pool = make_pool(engine)
        return (await pool.answer("a", [ticket(13)]))[0], (await pool.answer("a", [ticket(2)]))[0]

    failed, fine = asyncio.run(main())
    assert isinstance(failed, Failure) and failed.status == 500 and "MemoryError" in failed.message
    assert fine == [Answer([2], "stop")]


def test_logprobs_cover_the_answer_or_everything() -> None:
    engine = EchoEngine()
    engine.go.set()

    async def main() -> list[Any]:
        tickets = [ticket(3), ticket(3, logprobs="answer"), ticket(3, logprobs="all"), ticket(3, 4, max_tokens=0)]
        return await make_pool(engine).answer("a", tickets)

    plain, answer, everything, nothing = asyncio.run(main())
    assert plain[0].logprobs == []
    assert answer[0].logprobs == everything[0].logprobs == [-3.0]  # a one-token prompt has no scored token
    assert nothing == [Answer([], "length")] * 2
