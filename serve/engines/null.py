"""An engine that computes nothing: what a request costs with it is what HTTP, Serve and the gateway cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from serve.engines import Statistics, Vocabulary
from serve.work import Failure, Piece, Work
from sftfilter.generate_request import TokenScore


class NullEngine:
    """Repeats the pad token as often as it is asked to."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._done = Statistics()

    async def answer(self, work: Work) -> AsyncIterator[list[Piece] | Failure]:
        """Everything in one go."""
        self._done.sequences += len(work.sequences)
        yield [self._piece(i, work) for i in range(len(work.sequences))]

    def _piece(self, i: int, work: Work) -> Piece:
        request = work.sequences[i]
        nothing = TokenScore(0.0)
        scores = [nothing] * request.max_tokens if request.logprobs is not None else []
        prompt = [nothing] * (len(request.prompt_ids) - 1) if work.score_prompts is not None else None
        return Piece(i, [self.vocabulary.pad_id] * request.max_tokens, scores, prompt, "length")

    async def load(self, copy_id: str) -> Any:
        """Nothing is loaded."""

    def statistics(self) -> Statistics:
        """Sequences only."""
        return self._done
