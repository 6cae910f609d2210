"""A model asked over HTTP to grade each rollout against a rubric. What it did not clearly say is no score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, model_validator

from sftfilter.config import SpecPath, stable_hash
from sftfilter.endpoint.settings import Endpoint
from sftfilter.repetition import repeated_share
from sftfilter.schema import Message
from sftfilter.scorers.contract import Scored, ScorerSettings
from sftfilter.scorers.grading import TEMPLATE_VERSION, Form, judge_messages, read_grade

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from sftfilter.endpoint.client import ChatRequest
    from sftfilter.endpoint.replies import Answer, Failure
    from sftfilter.journal import Journal

_SAID = 400
_ECHOED = ("model", "system_fingerprint")
_Result = tuple[float | None, str | None, str | None]
"""Score, error, detail."""


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
    rubric: str | None = None
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
    _text: str = PrivateAttr("")

    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("messages", "completion")
    actors: ClassVar[int | None] = 2
    batch: ClassVar[int] = 256
    aside: ClassVar[frozenset[str]] = frozenset({"endpoint", "rubric", "rubric_file"})

    @model_validator(mode="after")
    def _complete(self) -> Judge:
        if (self.rubric is None) == (self.rubric_file is None):
            raise ValueError("needs either `rubric` or `rubric_file`")
        if not self.low < self.high:
            raise ValueError(f"`low` ({self.low:g}) must be below `high` ({self.high:g})")
        self._text = (self.rubric or "").strip()
        if self.rubric_file is not None:  # read here and now: workers on other machines may not have the file
            try:
                self._text = Path(self.rubric_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"rubric_file {self.rubric_file} cannot be read: {error}") from error
        if not self._text:
            raise ValueError("the rubric is empty")
        return self

    @property
    def rubric_text(self) -> str:
        """The rubric, wherever it stands."""
        return self._text

    def inputs(self) -> Sequence[str]:
        """What answers, and the rubric's text wherever it stands."""
        return [self.endpoint.answers_hash, stable_hash(self.rubric_text), str(TEMPLATE_VERSION)]

    @property
    def answer_form(self) -> Form:
        """What the judge must answer."""
        return Form(low=self.low, high=self.high, json_object=self.form == "json", quote=self.quote)

    def load(self, folder: Path, device: str) -> JudgeScorer:  # noqa: ARG002
        """The judge with its journal, which lies beside the prepared folder: all runs of a store share it."""
        from sftfilter.journal import Journal, journal_folder

        return JudgeScorer(self, Journal(journal_folder(folder.parent, self.endpoint.answers_hash)))

    def notes(self, scores: pl.LazyFrame) -> list[str]:
        """Which models answered, if more than one did."""
        import polars as pl

        echoed = [pl.col("detail").str.json_path_match(f"$.{name}").alias(name) for name in _ECHOED]
        counts = (
            scores.select(echoed).drop_nulls("model").group_by(_ECHOED).len().sort("len", descending=True).collect()
        )
        if len(counts) < 2:
            return []
        named = ", ".join(f"{model} ({fingerprint}): {rows} rows" for model, fingerprint, rows in counts.rows())
        return [f"{self.endpoint.base_url} answered with several models, whose scores may not compare: {named}"]


class JudgeScorer:
    """Asks about every row of a batch at once; each row stands for itself."""

    def __init__(self, judge: Judge, journal: Journal) -> None:
        from sftfilter.endpoint.client import BlockingClient

        self.judge = judge
        self.client = BlockingClient(judge.endpoint, journal)

    def score(self, batch: pa.Table) -> Scored:
        """A grade a row; null with an error where there is none. The detail is JSON: who graded, the quote, the reason."""
        import pyarrow as pa

        rows = batch.select(["messages", "completion"]).to_pylist()
        results = [self._without_asking(row) for row in rows]
        open_rows = [i for i, result in enumerate(results) if result is None]
        answers = self.client.ask_all([self._request(rows[i]) for i in open_rows])
        for i, answer in zip(open_rows, answers, strict=True):
            results[i] = self._graded(rows[i], answer)
        scores, errors, details = zip(*(r for r in results if r is not None), strict=True)
        return Scored(pa.array(scores, pa.float64()), pa.array(errors, pa.string()), pa.array(details, pa.string()))

    def _without_asking(self, row: dict[str, Any]) -> _Result | None:
        """Rows that are not worth a request, or that no judge could read."""
        completion = row["completion"]
        if completion is None or not completion.strip():
            return None, "no completion to score", None
        length = len(completion) + sum(len(turn["content"] or "") for turn in self._turns(row))
        if length > self.judge.longest:
            return None, f"{length} characters are more than `longest` ({self.judge.longest}); not sent", None
        share = repeated_share(completion)
        if share >= self.judge.loop_share and self.judge.loops == "error":
            return None, "looping text", json.dumps({"repeated": round(share, 3)})
        return None

    def _turns(self, row: dict[str, Any]) -> list[Message]:
        return (row["messages"] or []) if self.judge.sees == "conversation" else []

    def _request(self, row: dict[str, Any]) -> ChatRequest:
        from sftfilter.endpoint.client import ChatRequest

        judge = self.judge
        messages = judge_messages(judge.rubric_text, judge.answer_form, self._turns(row), row["completion"])
        return ChatRequest(messages, judge.max_tokens, judge.temperature, judge.seed)

    def _graded(self, row: dict[str, Any], answer: Answer | Failure) -> _Result:
        from sftfilter.endpoint.replies import Failure

        if isinstance(answer, Failure):
            return None, answer.reason, None
        graded = read_grade(answer.text, self.judge.answer_form, row["completion"])
        score, error = graded.score, graded.error
        if cut := answer.cut(self.judge.max_tokens):  # `SCORE: 1` may be the beginning of a 10
            score, error = None, f"{error} ({cut})" if error else f"the judge's answer was {cut}"
        detail = {
            "model": answer.model,
            "system_fingerprint": answer.fingerprint,
            "quote": graded.quote,
            "repeated": round(repeated_share(row["completion"]), 3),
            "said": answer.text[-_SAID:],
        }
        return score, error, json.dumps({k: v for k, v in detail.items() if v}, ensure_ascii=False)
