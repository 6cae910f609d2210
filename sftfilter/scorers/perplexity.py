"""How unlikely the base model finds an answer: a confound to look at beside every other score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sftfilter.scorers.contract import Scored
from sftfilter.scorers.language_model import Answer, ModelScorer, Reader, score_answers

if TYPE_CHECKING:
    import pyarrow as pa


class Perplexity(ModelScorer):
    """Mean negative log-likelihood of an answer, nats a token: the logarithm of its perplexity.

    The mean is over the tokens that training takes its loss on, so it equals the row's first training loss under `model`.
    Known confounds: short answers (their stop token weighs more), copied prompts, and looping text, all of them low.
    """

    kind: Literal["perplexity"]

    def load(self, folder: Path, device: str) -> PerplexityScorer:  # noqa: ARG002
        """The scorer, on the worker."""
        return PerplexityScorer(Reader(self, device))


class PerplexityScorer:
    """One forward pass a row."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def score(self, batch: pa.Table) -> Scored:
        """Nats a token."""
        return score_answers(batch, self.reader.encode, self._losses)

    def _losses(self, rows: Sequence[Answer]) -> list[float]:
        return [-sum(values) / len(values) for values in self.reader.answer_logprobs(rows)]
