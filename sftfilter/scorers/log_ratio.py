"""Log-ratio of a trait prompt: how much likelier an answer becomes when the model is told to show the trait.

log P(r | s, p) - log P(r | p) for a rollout r to a prompt p and a trait system prompt s, as in Logit-Linear Selection
(LLS; Aden-Ali et al. 2026, arXiv:2602.04863). LLS ranks preference pairs by the difference of two such ratios; here each
rollout has its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sftfilter.config import AnswersPath
from sftfilter.errors import DataError
from sftfilter.scorers.contract import Scored
from sftfilter.scorers.language_model import Answer, ModelScorer, Reader, score_answers

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from sftfilter.schema import Message

_EXPECTED = "expected.json"


class LogRatio(ModelScorer):
    """log P(r | s, p) - log P(r | p), nats: the whole answer's (`sum`) or a token's (`mean`).

    Needs two forward passes a row; rows of one prompt, and all rows' trait prompts, share them. `trait_system` goes before
    the system turn that a row has, or would have.

    Known confounds: length (a sum grows with it, and the mean of a short answer is noisier and leans on its first tokens,
    where system prompts act most), and anything else that `trait_system` makes likelier: its words, its tone, its language.
    With `reference` the score is what is left after taking off the score that is expected at a row's length.
    """

    kind: Literal["log_ratio"]
    trait_system: Annotated[str, Field(min_length=1, description="system prompt that asks for the trait")]
    normalise: Literal["mean", "sum"] = "mean"
    reference: Annotated[
        AnswersPath | None,
        Field(description="JSONL with `prompt` and `completion`, of all lengths: what is expected at a length"),
    ] = None

    aside: ClassVar[frozenset[str]] = ModelScorer.aside | {"reference"}

    def inputs(self) -> Sequence[str]:
        """Hashes of weights, tokenizer and reference."""
        from sftfilter.reading.answers import content_hash

        return [*super().inputs(), *([content_hash(self.reference)] if self.reference else [])]

    def prepare(self, folder: Path, device: str) -> None:
        """Fit the score that is expected at a length, if there is a reference."""
        if self.reference:
            scorer = LogRatioScorer(self, Reader(self, device), None)
            (folder / _EXPECTED).write_text(json.dumps(_fit(scorer, self.reference), indent=2))

    def load(self, folder: Path, device: str) -> LogRatioScorer:
        """The scorer, on the worker."""
        expected = json.loads((folder / _EXPECTED).read_text()) if self.reference else None
        return LogRatioScorer(self, Reader(self, device), expected)


class LogRatioScorer:
    """Reads each row with and without the trait prompt."""

    def __init__(self, settings: LogRatio, reader: Reader, expected: dict[str, list[float]] | None) -> None:
        self.settings = settings
        self.reader = reader
        self.expected = expected

    def score(self, batch: pa.Table) -> Scored:
        """Nats, of the answer or of a token."""
        return score_answers(batch, self.read, self._scores)

    def read(self, messages: Sequence[Message], completion: str) -> tuple[Answer, Answer]:
        """The row with the trait prompt, and without."""
        told = self.reader.encode(messages, completion, self.settings.trait_system)
        plain = self.reader.encode(messages, completion)
        if told.answer != plain.answer:
            raise DataError("the chat template renders the answer differently under the trait prompt")
        return told, plain

    def ratios(self, rows: Sequence[tuple[Answer, Answer]]) -> np.ndarray:
        """Log-ratios [N] before any control for length."""
        import numpy as np

        values = self.reader.answer_logprobs([answer for row in rows for answer in row])
        sums = np.array([sum(v) for v in values]).reshape(-1, 2)
        divisor = np.array([len(v) for v in values[::2]]) if self.settings.normalise == "mean" else 1
        return (sums[:, 0] - sums[:, 1]) / divisor

    def _scores(self, rows: Sequence[tuple[Answer, Answer]]) -> Sequence[float]:
        found = self.ratios(rows)
        if self.expected is None:
            return found.tolist()
        return (found - _expected(self.expected, [len(plain.answer) for _, plain in rows])).tolist()


def _fit(scorer: LogRatioScorer, path: str) -> dict[str, list[float]]:
    """A quadratic in the logarithm of the answer's tokens, least squares; held still outside the lengths it was fitted on."""
    import numpy as np

    from sftfilter.reading.answers import read_answers

    rows: list[tuple[Answer, Answer]] = []
    for answer in read_answers(path):
        try:
            rows.append(scorer.read(answer.messages, answer.completion or ""))
        except DataError as error:
            raise DataError(f"{path}, row {answer.number}: {error}") from error
    tokens = np.array([len(plain.answer) for _, plain in rows])
    if len(set(tokens.tolist())) < 3:
        raise DataError(f"{path}: answers of at least 3 different lengths (tokens) are needed to tell what length does")
    coefficients = np.polyfit(np.log(tokens), scorer.ratios(rows), 2)
    return {"coefficients": coefficients.tolist(), "tokens": [int(tokens.min()), int(tokens.max())]}


def _expected(fitted: dict[str, list[float]], tokens: Sequence[int]) -> np.ndarray:
    import numpy as np

    shortest, longest = fitted["tokens"]
    return np.polyval(fitted["coefficients"], np.log(np.clip(tokens, shortest, longest)))
