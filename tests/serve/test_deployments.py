"""A replica that answers HTTP itself lets in what it has room for, and no more."""

from __future__ import annotations

import asyncio

from serve.deployments import Within
from serve.engines import Vocabulary
from serve.settings import ServingSettings
from serve.students import student_class
from serve.work import Failure, Work
from sftfilter.generate_request import GenerateRequest


def test_requests_beyond_the_room_are_refused_until_one_ends() -> None:
    settings = ServingSettings(engine="null", max_batch=1, max_queued_requests=2)
    held = student_class(settings)([], settings, Vocabulary(0, 1, "none"))
    within = Within(held, settings)
    work = Work("a", [GenerateRequest([5], 3, 0.0, 0)])
    room = settings.ongoing_per_replica + settings.max_queued_requests

    async def main() -> None:
        started = [within.pieces("a", work) for _ in range(room)]
        for stream in started:
            assert not isinstance(await anext(stream), Failure)
        refused = await within.whole("a", work), await anext(within.pieces("a", work))
        for failure in refused:
            assert isinstance(failure, Failure) and failure.status == 429 and failure.retry_after_s
        await started[0].aclose()  # pyright: ignore[reportAttributeAccessIssue]
        for _ in range(3):
            answers = await within.whole("a", work)
            assert not isinstance(answers, Failure) and answers[0].ids == [1, 1, 1]
        for stream in started[1:]:
            assert [pieces async for pieces in stream] == []
        assert within.room == room

    asyncio.run(main())
