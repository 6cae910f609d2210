"""OpenAI's reply shapes: whole replies and chunks of streams, for chats and for completions."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from serve.token_text import TokenText
from sftfilter.generate_request import TokenScore


@dataclass(frozen=True)
class Part:
    """What a choice, or a chunk of one, shows.

    Attributes:
        scores: of the tokens `prompt`, `ids` and `end`; None for the very first token of a prompt. Empty where none were
            asked for.
        prompt: the tokens of an echoed prompt.
        finish_reason: None while more follows.
        end: the stop token that ended the answer, where the shape shows it. The text lacks it.
    """

    text: str
    ids: Sequence[int] = ()
    scores: Sequence[TokenScore | None] = ()
    finish_reason: str | None = None
    prompt: Sequence[int] = field(default=())
    end: int | None = None

    @property
    def written(self) -> int:
        """Tokens that the model wrote, as far as they are shown."""
        return len(self.ids) + (self.end is not None)


class ChatShape:
    """`/v1/chat/completions`."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"
    shows_end = False

    def __init__(self, tokens: TokenText) -> None:
        self.tokens = tokens

    def choice(self, index: int, part: Part, scored: bool) -> dict[str, Any]:
        """A whole choice."""
        message = {"role": "assistant", "content": part.text}
        shared = {"finish_reason": part.finish_reason, "logprobs": self._logprobs(part) if scored else None}
        return {"index": index, "message": message} | shared

    def chunk(self, index: int, part: Part, scored: bool, first: bool) -> dict[str, Any]:
        """Some of a choice."""
        delta = ({"role": "assistant"} if first else {}) | ({"content": part.text} if part.text or first else {})
        shared = {"finish_reason": part.finish_reason, "logprobs": self._logprobs(part) if scored else None}
        return {"index": index, "delta": delta} | shared

    def _logprobs(self, part: Part) -> dict[str, Any]:
        content = [
            self._entry(token, score.logprob) | {"top_logprobs": [self._entry(*other) for other in score.top]}
            for token, score in zip(part.ids, part.scores, strict=False)
            if score is not None
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self.tokens.text(token), "logprob": logprob, "bytes": list(self.tokens.raw(token))}


class CompletionShape:
    """`/v1/completions`.

    The stop token is listed among the tokens, and counted, as by vLLM's own server: clients that score texts (lm-eval)
    have one token written, and take the last log-probability for that token's.
    """

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"
    shows_end = True

    def __init__(self, tokens: TokenText) -> None:
        self.tokens = tokens

    def choice(self, index: int, part: Part, scored: bool) -> dict[str, Any]:
        """A whole choice."""
        echoed = self.tokens.decode(part.prompt, special=True) if part.prompt else ""
        found = self._logprobs(part) if scored else None
        return {"index": index, "text": echoed + part.text, "finish_reason": part.finish_reason, "logprobs": found}

    def chunk(self, index: int, part: Part, scored: bool, first: bool) -> dict[str, Any]:
        """Some of a choice."""
        del first
        return self.choice(index, part, scored)

    def _logprobs(self, part: Part) -> dict[str, Any]:
        ids = [*part.prompt, *part.ids, *([] if part.end is None else [part.end])]
        texts = [self.tokens.text(token) for token in ids]
        scores = list(part.scores[: len(ids)])
        return {
            "tokens": texts,
            "token_logprobs": [score and score.logprob for score in scores],
            "top_logprobs": [score and self._top(token, score) for token, score in zip(ids, scores, strict=True)],
            "text_offset": [0, *accumulate(map(len, texts[:-1]))] if texts else [],
        }

    def _top(self, token: int, score: TokenScore) -> dict[str, float] | None:
        """As OpenAI answers it, the token itself is among them; None where no alternatives were asked for."""
        if not score.top:
            return None
        return {self.tokens.text(other): value for other, value in score.top} | {self.tokens.text(token): score.logprob}


Shape = ChatShape | CompletionShape


def envelope(shape: Shape, model: str, fingerprint: str, *, chunk: bool = False) -> dict[str, Any]:
    """The fields that every reply begins with. `fingerprint` is the checkpoint's hash."""
    return {
        "id": f"{shape.prefix}-{uuid.uuid4().hex}",
        "object": shape.chunk_kind if chunk else shape.kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def event(payload: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(payload)}\n\n"


DONE = "data: [DONE]\n\n"
