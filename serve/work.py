"""What the HTTP side and the replicas that hold students hand each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sftfilter.generate_request import FinishReason, GenerateRequest, TokenScore


@dataclass(frozen=True)
class Work:
    """One HTTP request's share of a model's time.

    Attributes:
        sequences: what to continue; `max_tokens` 0 asks for no continuation, only for scores of the prompt.
        stops: strings that end a sequence. What is written goes up to and including the token that completes one.
        score_prompts: also score every token of the prompts but their first, with this many alternatives.
        timeout_s: an answer that takes longer is of no use to anybody.
    """

    model: str
    sequences: list[GenerateRequest]
    stops: list[str] = field(default_factory=list)
    score_prompts: int | None = None
    timeout_s: float = 600.0


@dataclass(frozen=True)
class Piece:
    """Some more of one sequence.

    Attributes:
        index: of the sequence in its work.
        scores: of `ids`, and then of `end`, where they were asked for.
        prompt_scores: of the prompt's tokens but the first, in one piece.
        finish_reason: set in the last piece.
        end: the stop token, if that is what ended the sequence; it is none of `ids`.
    """

    index: int
    ids: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    prompt_scores: list[TokenScore] | None = None
    finish_reason: FinishReason | None = None
    end: int | None = None


@dataclass(frozen=True)
class Answer:
    """One whole sequence; fields as in `Piece`."""

    ids: list[int]
    finish_reason: FinishReason
    scores: list[TokenScore] = field(default_factory=list)
    prompt_scores: list[TokenScore] = field(default_factory=list)
    end: int | None = None


@dataclass(frozen=True)
class Failure:
    """Why there is no answer. A value, not an exception: Serve would log a raised one with a traceback.

    Attributes:
        status: HTTP status.
        retry_after_s: when asking again may help; None says that it will not.
    """

    status: int
    message: str
    code: str
    retry_after_s: float | None = None


def whole(count: int, pieces: Iterable[Piece]) -> list[Answer]:
    """The answers that pieces make up, in the order of the sequences."""
    ids: list[list[int]] = [[] for _ in range(count)]
    scores: list[list[TokenScore]] = [[] for _ in range(count)]
    prompts: list[list[TokenScore]] = [[] for _ in range(count)]
    reasons: list[FinishReason] = ["length"] * count
    ends: list[int | None] = [None] * count
    for piece in pieces:
        ids[piece.index] += piece.ids
        scores[piece.index] += piece.scores
        prompts[piece.index] += piece.prompt_scores or []
        reasons[piece.index] = piece.finish_reason or reasons[piece.index]
        ends[piece.index] = ends[piece.index] if piece.end is None else piece.end
    return [Answer(*parts) for parts in zip(ids, reasons, scores, prompts, ends, strict=True)]
