"""OpenAI's request bodies and error shape. Unknown fields that change nothing are ignored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, field_validator, model_validator

from sftfilter.schema import Message

_Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Token = Annotated[StrictInt, Field(ge=0)]
_Model = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Prompt = str | Annotated[list[_Token] | list[str] | list[list[_Token]], Field(min_length=1)]

MAX_ALTERNATIVES = 20
"""Alternatives to a token that a request may ask for; OpenAI's own limit in chats."""

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
            return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        return {"x-should-retry": "false"} if self.status >= 500 else {}


class ErrorBody(BaseModel):
    """What an error looks like."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The body of every reply other than 200."""

    error: ErrorBody


class _Sampling(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: _Model
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[
        int | None, Field(ge=-(2**63), lt=2**63, description="the same seed gives the same answer; default: a new one")
    ] = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _refuse_what_is_not_done(self) -> _Sampling:
        for name, harmless in _ONLY.items():
            if (self.model_extra or {}).get(name) not in harmless:
                raise ApiError(400, f"'{name}' is not supported by this endpoint", param=name, code="unsupported")
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
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None

    @field_validator("max_tokens")
    @classmethod
    def _some(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError("must be at least 1")
        return value

    @model_validator(mode="after")
    def _alternatives_of_something(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        return self

    @property
    def alternatives(self) -> int | None:
        """Alternatives to each token; None asks for no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Sampling):
    """Body of `/v1/completions`."""

    prompt: _Prompt
    echo: Annotated[bool | None, Field(description="answer the prompt too, and its log-probabilities")] = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [part for part in self.prompt if not isinstance(part, int)]

    @property
    def alternatives(self) -> int | None:
        """Alternatives to each token; None asks for no log-probabilities at all."""
        return self.logprobs


class TokenizeRequest(BaseModel):
    """Body of `/tokenize`: a prompt, or messages that the chat template renders."""

    model: _Model | None = None
    prompt: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1)] | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(BaseModel):
    """Body of `/detokenize`."""

    model: _Model | None = None
    tokens: Annotated[list[_Token], Field(max_length=1 << 20)]
