"""What vLLM answers, told as pieces: its stop token, stop strings, and the token that it writes though none was asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from serve.engines.vllm import _piece
from serve.work import Work
from sftfilter.generate_request import GenerateRequest

STOP = 2


def told(reason: str | None, stop: str | int | None, max_tokens: int = 4, logprobs: int | None = 1) -> Any:
    """The piece of an output of two tokens, the second of them the stop token's."""
    tables = [{token: SimpleNamespace(logprob=-1.0 - token)} for token in (7, STOP)]
    new = SimpleNamespace(
        token_ids=(7, STOP),
        finish_reason=reason,
        stop_reason=stop,
        logprobs=tables if logprobs is not None else None,
    )
    output = SimpleNamespace(outputs=[new], prompt_logprobs=None, finished=reason is not None)
    request = GenerateRequest([5, 6], max_tokens, logprobs=logprobs)
    return _piece(0, output, request, Work("m", [request]))


def test_a_stop_token_ends_the_answer_and_keeps_its_score() -> None:
    for stop in (None, STOP):  # the tokenizer's own, and the one that was named
        piece = told("stop", stop)
        assert (piece.ids, piece.end, piece.finish_reason) == ([7], STOP, "stop")
        assert [score.logprob for score in piece.scores] == [-8.0, -3.0]
    piece = told("stop", None, logprobs=None)
    assert (piece.ids, piece.end, piece.scores) == ([7], STOP, [])


def test_the_token_that_completes_a_stop_string_is_part_of_what_was_written() -> None:
    piece = told("stop", "text")
    assert (piece.ids, piece.end, len(piece.scores)) == ([7, STOP], None, 2)


def test_where_no_token_was_asked_for_none_is_told() -> None:
    piece = told("stop", None, max_tokens=0)
    assert (piece.ids, piece.end, piece.scores, piece.finish_reason) == ([], None, [], "length")
