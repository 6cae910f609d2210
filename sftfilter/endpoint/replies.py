"""What came back: an answer, a failure that costs one row, trouble worth another attempt, or a reason to stop."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sftfilter.endpoint.pacing import retry_after
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import EvalError

_AGAIN = frozenset({408, 409, 425, 429})
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes of a 429 that no waiting mends."""
_OF_THE_KEY = re.compile(r"\b(?:key|token|credentials?|permissions?)\b|api.?key|authenti|authori[sz]", re.IGNORECASE)
_OF_THE_PROMPT = re.compile(r"moderat|flagged|content.?(?:filter|policy)|safety", re.IGNORECASE)
"""What a 403 speaks of: some servers answer it to a wrong key, others to one prompt that they will not answer."""
_CUT = {"length": "cut at max_tokens ({})", "content_filter": "cut by the server's content filter"}
"""Reasons for which an answer ended before its end."""


@dataclass(frozen=True)
class Answer:
    """What a model answered, and which model the server says it was."""

    text: str
    finish_reason: str | None
    model: str | None
    fingerprint: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning: str | None = None
    """What the model thought, where the server sends it in a field of its own."""

    def cut(self, max_tokens: int) -> str | None:
        """How it ended before its end; None: it did not. The start of an answer may say something else than all of it."""
        reason = _CUT.get(self.finish_reason or "")
        return reason and reason.format(max_tokens)

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


@dataclass(frozen=True)
class Failure:
    """No answer to one request, all attempts used; `reason` never holds the key. `code`: the server's own, if it sent one."""

    reason: str
    code: str | None = None


@dataclass(frozen=True)
class Trouble:
    """One attempt without an answer. `wait`: seconds the server asks for. `final`: another attempt is of no use."""

    reason: str
    wait: float | None = None
    final: bool = False
    code: str | None = None


def read_answer(body: bytes) -> Answer | Trouble:
    """A chat completion, checked field by field: servers and the proxies before them send all sorts with status 200."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return Trouble(f"the body is not JSON: {_shown(body.decode('utf-8', 'replace'), 80)!r}")
    data = data if isinstance(data, dict) else {}
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else False
    if content is not None and not isinstance(content, str):
        said = error_message(data)
        return Trouble(f"the body holds no answer{f': {said}' if said else ''}")
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Answer(
        text=(content or "").encode("utf-8", "replace").decode(),  # JSON may escape half a surrogate pair
        finish_reason=_text(choice.get("finish_reason")),
        model=_text(data.get("model")),
        fingerprint=_text(data.get("system_fingerprint")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        reasoning=_text(message.get("reasoning_content") or message.get("reasoning")) if message else None,
    )


def read_refusal(
    endpoint: Endpoint, status: int, headers: Mapping[str, str], text: str, *, answered: bool = False
) -> Trouble:
    """What an answer with an error status means.

    Args:
        answered: whether the endpoint has answered others of this job. If so a 403 is about one prompt, unless it says
            otherwise; if not it is about all of them, unless it says otherwise.

    Raises:
        EvalError: no request will be answered until a person acts: a wrong key, model or address, or no credit.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    said = error_message(body) or _shown(text, 200)
    where = f"{endpoint.base_url} answered {status} for model {endpoint.model}: {said}"
    if status == 401 or (status == 403 and not _of_one_prompt(f"{said} {_code(body) or ''}", answered)):
        raise EvalError(f"{where}\nCheck {_key_of(endpoint)}, and whether it may use this model.")
    if status == 404:
        raise EvalError(f"{where}\nCheck `model`, and that `base_url` is the part before /chat/completions.")
    if status == 402 or (status == 429 and _code(body) in _QUOTA):
        raise EvalError(f"{where}\nThe account has no credit left; what was answered is kept, so run again later.")
    wait = retry_after(headers)
    if status in _AGAIN or status >= 500:
        if wait is not None and wait > endpoint.longest_wait_s:
            raise EvalError(
                f"{where}\nIt asks to wait {wait:.0f} s, longer than `longest_wait_s` ({endpoint.longest_wait_s:g}); what "
                "was answered is kept, so run again later."
            )
        final = headers.get("x-should-retry") == "false"  # the server's own word, which the openai client heeds as well
        return Trouble(f"status {status}: {said}", wait, final, _code(body))
    return Trouble(f"status {status} for model {endpoint.model}: {said}", final=True, code=_code(body))


def _of_one_prompt(said: str, answered: bool) -> bool:
    """Whether a 403 refuses one prompt, not the key."""
    return not _OF_THE_KEY.search(said) and (answered or bool(_OF_THE_PROMPT.search(said)))


def _key_of(endpoint: Endpoint) -> str:
    if endpoint.api_key_file:
        return f"the key in the file {endpoint.api_key_file}"
    if endpoint.api_key_env:
        return f"the key in ${endpoint.api_key_env}"
    return "`api_key_env` and `api_key_file`, neither of which is set"


def error_message(body: Any) -> str | None:
    """The message of `{"error": {"message": ...}}` and its cousins."""
    if not isinstance(body, Mapping):
        return None
    inner = body.get("error", body)
    message = inner.get("message") or inner.get("detail") if isinstance(inner, Mapping) else inner
    return _shown(message, 300) if isinstance(message, str) and message else None


def _code(body: Any) -> str | None:
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    code = inner.get("code") or inner.get("type") if isinstance(inner, Mapping) else None
    return code if isinstance(code, str) else None


def _shown(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}..."


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
