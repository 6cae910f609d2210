"""The running engine without Serve, on tiny models: batches, eviction, adapters, broken checkpoints, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from serve.engines import Vocabulary
from serve.engines.running import RunningEngine, collect
from serve.settings import HostedModel, ServingSettings
from serve.work import Answer, Failure, Work, whole
from sftfilter.generate_request import NOT_FINITE, GenerateRequest
from tests.serve.tiny import TinyStudents, without_numbers

STOP, PAD = 2, 0


class Cache:
    """What Serve's multiplexing does: keeps so many, evicts the longest unused."""

    def __init__(self, size: int) -> None:
        self.size, self.kept, self.evicted = size, {}, []
        self.load: Callable[[str], Awaitable[Any]] | None = None

    async def fetch(self, copy_id: str) -> Any:
        assert self.load is not None
        if copy_id in self.kept:
            self.kept[copy_id] = self.kept.pop(copy_id)
            return self.kept[copy_id]
        if len(self.kept) >= self.size:
            self.evicted.append(next(iter(self.kept)))
            del self.kept[self.evicted[-1]]
        self.kept[copy_id] = await self.load(copy_id)
        return self.kept[copy_id]


def make(models: Sequence[HostedModel], folder: str, **fields: Any) -> tuple[RunningEngine, Cache]:
    settings = ServingSettings(**{"dtype": "float32", "models_in_memory": 1, "threads": 1} | fields)
    cache = Cache(settings.models_in_memory)
    engine = RunningEngine(models, settings, Vocabulary(STOP, PAD, folder), cache.fetch)
    cache.load = engine.load
    return engine, cache


async def ask(engine: RunningEngine, work: Work) -> list[Answer] | Failure:
    pieces = await collect(engine.answer(work))
    return pieces if isinstance(pieces, Failure) else whole(len(work.sequences), pieces)


def work(model: str, *prompts: int, tokens: int = 8, **fields: Any) -> Work:
    return Work(model, [GenerateRequest([5, 6, p], tokens, 0.0) for p in prompts], **fields)


def test_concurrent_requests_share_steps_and_models_take_turns(tiny: TinyStudents) -> None:
    engine, cache = make(tiny.full, tiny.folder)

    async def main() -> list[Any]:
        alone = [await ask(engine, work(model, p)) for model in ("full-0", "full-1") for p in range(8)]
        before = engine.statistics().steps
        calls = [ask(engine, work(model, p)) for p in range(8) for model in ("full-0", "full-1")]
        together = await asyncio.gather(*calls)
        return [alone, together[::2] + together[1::2], engine.statistics().steps - before]

    alone, together, steps = asyncio.run(main())
    assert together == alone  # in fp32, neighbours change nothing
    assert alone[:8] != alone[8:]
    assert steps <= 2 * (8 + 2)
    assert cache.evicted, "one copy in memory, two models: they took turns"


def test_scores_do_not_follow_from_who_asks_at_the_same_time(tiny: TinyStudents) -> None:
    """To the last bit: each request has forward passes of its own."""
    engine, _ = make(tiny.full[:1], tiny.folder)
    asked = [work("full-0", k, 1 + k % 3, tokens=0, score_prompts=1) for k in range(12)]

    async def main() -> list[Any]:
        alone = [await ask(engine, one) for one in asked]
        return [alone, await asyncio.gather(*(ask(engine, one) for one in asked))]

    alone, together = asyncio.run(main())
    assert together == alone and alone[0][0].prompt_scores


def test_an_eviction_waits_for_requests_in_flight(tiny: TinyStudents) -> None:
    engine, cache = make(tiny.full, tiny.folder)

    async def main() -> tuple[Any, Any, list[str]]:
        long = asyncio.create_task(ask(engine, work("full-0", 1, tokens=60)))
        await asyncio.sleep(0.05)
        other = asyncio.create_task(ask(engine, work("full-1", 1)))
        first = await long
        return first, await other, list(cache.evicted)

    long, other, evicted = asyncio.run(main())
    assert isinstance(long, list) and isinstance(other, list)
    assert evicted == ["full-0"]


def test_a_model_is_not_kept_waiting_for_ever(tiny: TinyStudents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.engines.running._TURN_S", 0.05)
    monkeypatch.setattr("serve.engines.running._TURN_LOADS", 0)
    engine, _ = make(tiny.full, tiny.folder)

    async def main() -> bool:
        served = asyncio.Event()

        async def crowd() -> None:
            while not served.is_set():
                await ask(engine, work("full-0", 1, 2, tokens=20))

        crowds = [asyncio.create_task(crowd()) for _ in range(4)]
        await asyncio.sleep(0.1)
        answer = await asyncio.wait_for(ask(engine, work("full-1", 1)), 20)
        served.set()
        await asyncio.gather(*crowds)
        return isinstance(answer, list)

    assert asyncio.run(main())


def test_lora_students_share_one_base_and_answer_as_their_merged_weights(tiny: TinyStudents) -> None:
    engine, cache = make(tiny.lora, tiny.folder, adapters_in_memory=2)
    merged, _ = make([m.model_copy(update={"adapter": None}) for m in tiny.lora], tiny.folder)

    async def main(engine: RunningEngine) -> list[Any]:
        names = [model.id for model in tiny.lora for _ in range(2)]
        return await asyncio.gather(*(ask(engine, work(name, k, tokens=10)) for k, name in enumerate(names)))

    shared = asyncio.run(main(engine))
    assert shared == asyncio.run(main(merged))
    assert engine.statistics().loads == 1 and not cache.evicted
    assert engine.statistics().adapters >= 3  # memory holds two of the three


def test_many_students_stay_within_their_number_in_memory(tiny: TinyStudents) -> None:
    many = [tiny.full[k % 2].model_copy(update={"id": f"student-{k}"}) for k in range(16)]
    engine, cache = make(many, tiny.folder, models_in_memory=3)

    async def main() -> list[Any]:
        return await asyncio.gather(*(ask(engine, work(m.id, 3)) for m in many))

    answers = asyncio.run(main())
    assert len({str(answer) for answer in answers[::2]}) == len({str(answer) for answer in answers[1::2]}) == 1
    assert answers[0] != answers[1]
    assert len(cache.kept) <= 3 and engine.statistics().loads == 16


def test_a_broken_checkpoint_fails_alone_and_is_not_read_again_at_once(tiny: TinyStudents) -> None:
    engine, _ = make([*tiny.full, *tiny.broken], tiny.folder, models_in_memory=2)

    async def main() -> list[Any]:
        broken = [model.id for model in tiny.broken]
        names = ["full-0", *broken, "full-1", *broken]
        return await asyncio.gather(*(ask(engine, work(name, 1)) for name in names))

    answers = asyncio.run(main())
    failed = [answer for answer in answers if isinstance(answer, Failure)]
    assert len(failed) == 2 * len(tiny.broken)
    assert all(f.status == 500 and f.retry_after_s is None and "cannot be loaded" in f.message for f in failed)
    assert "expected 0000" in " ".join(f.message for f in failed)
    assert engine.statistics().loads == 2 + len(tiny.broken)


@pytest.mark.parametrize("shared", [False, True])
def test_a_model_whose_logits_are_no_numbers_fails_alone(tiny: TinyStudents, tmp_path: Path, shared: bool) -> None:
    healthy = tiny.lora[1] if shared else tiny.full[0]
    sick = without_numbers(healthy, tmp_path)
    engine, _ = make([healthy, sick], tiny.folder, models_in_memory=2)

    async def main() -> list[Any]:
        alone = await ask(engine, work(healthy.id, 7))
        scored = work(sick.id, 7, 8, tokens=0, score_prompts=0)
        asked = [work(sick.id, 7, 8), work(healthy.id, 7), scored, work(sick.id, 9)]
        return [alone, *await asyncio.gather(*(ask(engine, one) for one in asked))]

    alone, first, beside, scored, again = asyncio.run(main())
    assert isinstance(alone, list) and beside == alone
    for failure in (first, scored, again):
        assert isinstance(failure, Failure) and failure.code == NOT_FINITE
        assert (failure.status, failure.retry_after_s) == (500, None) and f"model '{sick.id}'" in failure.message


def test_leaving_and_deadlines_end_the_work(tiny: TinyStudents) -> None:
    engine, _ = make(tiny.full, tiny.folder)

    async def main() -> tuple[Any, int, int]:
        late = await ask(engine, work("full-0", 1, tokens=100, timeout_s=0.001))
        async with aclosing(engine.answer(work("full-0", 1, 2, tokens=100))) as pieces:  # pyright: ignore
            await anext(pieces)
        while engine.statistics().running:
            await asyncio.sleep(0.01)
        before = engine.statistics().steps
        await asyncio.sleep(0.05)
        return late, engine.statistics().steps - before, engine.statistics().running

    late, more, running = asyncio.run(main())
    assert isinstance(late, Failure) and (late.status, late.code) == (504, "timeout")
    assert (more, running) == (0, 0)


def test_requests_that_are_scored_together_get_the_scores_of_all_their_prompts(tiny: TinyStudents) -> None:
    """As lm-eval asks: one token each, which is written long before the last prompt is scored."""
    engine, _ = make(tiny.full[:1], tiny.folder)

    async def main() -> list[Any]:
        asked = [
            Work("full-0", [GenerateRequest([5, 6, k, n], 1, logprobs=1) for n in range(3)], score_prompts=1)
            for k in range(5)
        ]
        return await asyncio.gather(*(ask(engine, one) for one in asked))

    for answers in asyncio.run(main()):
        assert [len(answer.prompt_scores) for answer in answers] == [3, 3, 3]
        assert [len(answer.scores) for answer in answers] == [1, 1, 1]


def test_the_stop_token_is_scored_and_told_apart_from_the_answer(ending: HostedModel, tiny: TinyStudents) -> None:
    engine, _ = make([ending], tiny.folder)

    async def main() -> Any:
        return await ask(engine, Work(ending.id, [GenerateRequest([5, 6, 7], 9, logprobs=1), GenerateRequest([5], 9)]))

    for answer, scores in zip(asyncio.run(main()), (1, 0), strict=True):
        assert (answer.ids, answer.end, answer.finish_reason) == ([], STOP, "stop")
        assert len(answer.scores) == scores and all(score.top[0][0] == STOP for score in answer.scores)


def test_scores_of_prompts_and_answers(tiny: TinyStudents) -> None:
    engine, _ = make(tiny.full, tiny.folder)

    async def main() -> tuple[Any, Any]:
        scored = Work("full-0", [GenerateRequest([5, 6, 7, 8], 4, logprobs=2)], score_prompts=2)
        only = Work("full-0", [GenerateRequest([5, 6, 7, 8], 0), GenerateRequest([9, 8], 0)], score_prompts=0)
        return await asyncio.gather(ask(engine, scored), ask(engine, only))

    (both,), (first, second) = asyncio.run(main())
    assert len(both.prompt_scores) == 3 and len(both.scores) in (len(both.ids), len(both.ids) + 1)
    assert all(len(score.top) == 2 for score in both.prompt_scores)
    assert [s.logprob for s in first.prompt_scores] == pytest.approx([s.logprob for s in both.prompt_scores], abs=1e-4)
    assert (first.ids, len(second.prompt_scores)) == ([], 1)


def test_a_failing_step_fails_its_requests_only(tiny: TinyStudents, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make(tiny.full, tiny.folder)
    from sftfilter.decoder import Decoder

    step, calls = Decoder.step, []

    def sometimes(self: Decoder) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return step(self)

    monkeypatch.setattr(Decoder, "step", sometimes)

    async def main() -> tuple[Any, Any]:
        return await ask(engine, work("full-0", 1)), await ask(engine, work("full-0", 1))

    failed, fine = asyncio.run(main())
    assert isinstance(failed, Failure) and failed.status == 500 and "MemoryError" in failed.message
    assert isinstance(fine, list)
