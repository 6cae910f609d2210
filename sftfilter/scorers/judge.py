"""A model asked over HTTP to grade each rollout against a rubric. What it did not clearly say is no score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sftfilter.config import SpecPath, stable_hash
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import DataError
from sftfilter.scorers.contract import ScorerSettings


class Judge(ScorerSettings):
    """Grades by a rubric, one request a row. The spec's rubric is the judge's system turn, with scale and form added.

    Attributes:
        form: `line`: the answer ends with `SCORE: n`; `json`: the answer is an object with `score`.
        quote: the judge must quote the passage; one that is not in the completion, word for word, is an error.
        sees: the conversation and the completion, or the completion alone.
        loops: what happens to looping text, whose grade means little: an error without asking, or asked all the same.
        loop_share: from this share of repeated text on (see `repetition`) a completion counts as looping.
        longest: characters of conversation and completion; longer rows are not sent.
    """

    kind: Literal["judge"]
    endpoint: Endpoint
    rubric: Annotated[str | None, Field(min_length=1)] = None
    rubric_file: SpecPath | None = None
    low: float = 0
    high: float = 10
    form: Literal["line", "json"] = "line"
    quote: bool = False
    sees: Literal["conversation", "completion"] = "conversation"
    loops: Literal["error", "score"] = "error"
    loop_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    longest: Annotated[int, Field(gt=0)] = 100_000
    max_tokens: Annotated[int, Field(gt=0)] = 512
    temperature: Annotated[float, Field(ge=0)] = 0
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("messages", "completion")
    batch: ClassVar[int] = 256
    aside: ClassVar[frozenset[str]] = frozenset({"endpoint", "rubric", "rubric_file"})

    @model_validator(mode="after")
    def _complete(self) -> Judge:
        if (self.rubric is None) == (self.rubric_file is None):
            raise ValueError("needs either `rubric` or `rubric_file`")
        if not self.low < self.high:
            raise ValueError(f"`low` ({self.low:g}) must be below `high` ({self.high:g})")
        return self

    def rubric_text(self) -> str:
        """The rubric, read from its file if need be."""
        if self.rubric_file is None:
            return (self.rubric or "").strip()
        try:
            text = Path(self.rubric_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.rubric_file}: the judge's rubric cannot be read: {error}") from error
        if not text:
            raise DataError(f"{self.rubric_file}: the judge's rubric is empty")
        return text

    def inputs(self) -> Sequence[str]:
        """What answers, and the rubric's text wherever it stands."""
        return [self.endpoint.answers_hash, stable_hash(self.rubric_text())]
