"""OpenAI's request bodies, error shape and reply shapes. Unknown fields that change nothing are ignored."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, field_validator, model_validator

from sftfilter.schema import Message

_Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Token = Annotated[StrictInt, Field(ge=0)]

# Fields that would change the answer if they were honoured, and the values under which they would not.
_ONLY: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "logit_bias": (None, {}),
    "top_logprobs": (None, 0),
    "top_k": (None, -1),
    "min_p": (None, 0),
    "suffix": (None, ""),
    "best_of": (None, 1),
}


class ApiError(Exception):
    """An answer other than 200, in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`Retry-After` (seconds) where waiting helps; a word to OpenAI's clients where a 5xx is here to stay."""
        if self.retry_after_s is not None:
            return {"Retry-After": str(max(1, round(self.retry_after_s)))}
        return {"x-should-retry": "false"} if self.status >= 500 else {}


class _Sampling(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    top_p: float | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _refuse_what_is_not_done(self) -> _Sampling:
        for name, harmless in _ONLY.items():
            if (self.model_extra or {}).get(name) not in harmless:
                raise ApiError(400, f"'{name}' is not supported by this endpoint", param=name, code="unsupported")
        if self.top_p not in (None, 1):
            raise ApiError(
                400, "only top_p = 1 is supported: answers sample the model's own distribution", param="top_p"
            )
        return self

    @property
    def stops(self) -> list[str]:
        """Strings that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool((self.stream_options or {}).get("include_usage"))


class TextPart(BaseModel):
    """A part of a turn; pictures and sound are refused."""

    type: Literal["text"]
    text: str


class Turn(BaseModel):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]

    def message(self) -> Message:
        """The turn as the chat template takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatRequest(_Sampling):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None

    @field_validator("max_tokens")
    @classmethod
    def _some(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError("must be at least 1")
        return value

    @model_validator(mode="after")
    def _no_logprobs(self) -> ChatRequest:
        if self.logprobs:
            raise ApiError(400, "log-probabilities are answered by /v1/completions only", param="logprobs")
        return self


class CompletionRequest(_Sampling):
    """Body of `/v1/completions`. `logprobs` 0 or 1 scores the tokens themselves; alternatives are not computed."""

    prompt: str | Annotated[list[_Token] | list[str] | list[list[_Token]], Field(min_length=1)]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [part for part in self.prompt if not isinstance(part, int)]


def envelope(kind: str, model: str, fingerprint: str) -> dict[str, Any]:
    """The fields that every reply begins with. `fingerprint` is the checkpoint's hash."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def events(reply: Mapping[str, Any], with_usage: bool) -> Iterator[str]:
    """A finished reply as server-sent events."""
    head = {k: v for k, v in reply.items() if k not in ("choices", "usage")}
    chat = reply["object"] == "chat.completion"
    if chat:
        head["object"] = "chat.completion.chunk"
    for choice in reply["choices"]:
        for piece in _chat_pieces(choice) if chat else [choice]:
            yield _event(head | {"choices": [piece]})
    if with_usage:
        yield _event(head | {"choices": [], "usage": reply["usage"]})
    yield "data: [DONE]\n\n"


def _chat_pieces(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    def piece(delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        return {"index": choice["index"], "delta": delta, "finish_reason": reason}

    return [piece(dict(choice["message"]), None), piece({}, choice["finish_reason"])]


def _event(payload: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(payload)}\n\n"
