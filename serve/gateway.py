"""From an OpenAI request to token ids, and from new token ids to an OpenAI reply. Knows neither HTTP nor Serve."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.protocol import ApiError, ChatRequest, CompletionRequest, envelope, usage
from serve.settings import HostedModel, ServingSettings
from serve.work import Answer, Failure, Work
from sftfilter.engine import GenerateRequest

if TYPE_CHECKING:
    from sftfilter.chat_format import ChatFormat

Ask = Callable[[str, Work], Awaitable[list[Answer] | Failure]]
"""Has the model with this id do the work."""

_MAX_SEQUENCES = 1024
_SEED_STRIDE = 1_000_003  # samples of one request are far from those of a request with the next seed


@dataclass(frozen=True)
class _Limits:
    """What a checkpoint's configuration allows; None where it cannot be read (its replica will say why)."""

    context: int | None
    vocabulary: int | None


@dataclass(frozen=True)
class _Done:
    """One sequence, cut at its stop string."""

    text: str
    ids: list[int]
    finish_reason: str
    logprobs: list[float]


class Gateway:
    """The endpoint's behaviour.

    Args:
        ask: how to reach the students.
    """

    def __init__(
        self, models: Sequence[HostedModel], settings: ServingSettings, chat_format: ChatFormat, ask: Ask
    ) -> None:
        self.models = {model.id: model for model in models}
        self.settings = settings
        self.format = chat_format
        self.ask = ask
        self._limits = {model.id: _read_limits(model.folder) for model in models}

    async def chat(self, request: ChatRequest) -> dict[str, Any]:
        """Reply of `/v1/chat/completions`."""
        model = self._model(request.model)
        prompt = self._chat_ids(request)
        wanted = request.max_completion_tokens or request.max_tokens
        limit = self._max_tokens(model.id, [prompt], wanted)
        sequences = [self._sequence(request, prompt, limit, k) for k in range(request.n or 1)]
        answers = await self._ask(model.id, Work(sequences))
        done = [self._cut(answer, request.stops) for answer in answers]
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": one.text},
                "finish_reason": one.finish_reason,
                "logprobs": None,
            }
            for i, one in enumerate(done)
        ]
        counts = usage(len(prompt), sum(len(one.ids) for one in done))
        return envelope("chat.completion", model.id, model.model_hash) | {"choices": choices, "usage": counts}

    async def complete(self, request: CompletionRequest) -> dict[str, Any]:
        """Reply of `/v1/completions`."""
        model = self._model(request.model)
        prompts = [self._raw_ids(model.id, prompt) for prompt in request.prompts()]
        wanted = 16 if request.max_tokens is None else request.max_tokens  # OpenAI's own default here
        limit = self._max_tokens(model.id, prompts, wanted)
        repeated = [(prompt, k) for prompt in prompts for k in range(request.n or 1)]
        if len(repeated) > _MAX_SEQUENCES:
            raise ApiError(
                400, f"{len(repeated)} sequences in one request; the limit is {_MAX_SEQUENCES}", param="prompt"
            )
        scoring = "none" if request.logprobs is None else "all" if request.echo else "answer"
        work = Work([self._sequence(request, prompt, limit, k) for prompt, k in repeated], scoring)
        answers = await self._ask(model.id, work)
        done = [self._cut(answer, request.stops) for answer in answers]
        choices = [
            self._choice(i, prompt, one, request)
            for i, ((prompt, _), one) in enumerate(zip(repeated, done, strict=True))
        ]
        counts = usage(sum(map(len, prompts)), sum(len(one.ids) for one in done))
        return envelope("text_completion", model.id, model.model_hash) | {"choices": choices, "usage": counts}

    def _model(self, model_id: str) -> HostedModel:
        if model_id not in self.models:
            known = ", ".join(sorted(self.models))
            raise ApiError(404, f"no model '{model_id}' here; models: {known}", param="model", code="model_not_found")
        return self.models[model_id]

    def _chat_ids(self, request: ChatRequest) -> list[int]:
        try:
            return self.format.prompt_ids([turn.message() for turn in request.messages])
        except Exception as error:  # templates refuse conversations with whatever their author raised
            raise ApiError(400, f"the chat template refuses these messages: {error}", param="messages") from error

    def _raw_ids(self, model_id: str, prompt: str | list[int]) -> list[int]:
        ids = self.format.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
        if not ids:
            raise ApiError(400, "a prompt is empty", param="prompt")
        size = self._limits[model_id].vocabulary
        if size is not None and max(ids) >= size:
            raise ApiError(400, f"token id {max(ids)} is outside the vocabulary of {size}", param="prompt")
        return ids

    def _max_tokens(self, model_id: str, prompts: list[list[int]], wanted: int | None) -> int:
        limit = self.settings.max_tokens_limit
        context = self._limits[model_id].context
        longest = max(map(len, prompts))
        room = limit if context is None else context - longest
        asked = min(limit, max(room, 1)) if wanted is None else wanted
        if asked > limit:
            raise ApiError(400, f"max_tokens {asked} is above this endpoint's limit of {limit}", param="max_tokens")
        if asked > room:
            raise ApiError(
                400,
                f"the context holds {context} tokens, but the prompt has {longest} and max_tokens is {asked}",
                param="messages",
                code="context_length_exceeded",
            )
        return asked

    def _sequence(
        self, request: ChatRequest | CompletionRequest, prompt: list[int], limit: int, sample: int
    ) -> GenerateRequest:
        seed = ((request.seed or 0) + sample * _SEED_STRIDE) % 2**63
        temperature = 1.0 if request.temperature is None else request.temperature
        return GenerateRequest(prompt, limit, temperature, seed)

    async def _ask(self, model_id: str, work: Work) -> list[Answer]:
        try:
            result = await asyncio.wait_for(self.ask(model_id, work), self.settings.request_timeout_s)
        except TimeoutError:
            limit = f"{self.settings.request_timeout_s:g} s"
            raise ApiError(504, f"no answer within {limit}", code="timeout", retry_after_s=5) from None
        if isinstance(result, Failure):
            raise ApiError(result.status, result.message, code=result.code, retry_after_s=result.retry_after_s)
        return result

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.format.tokenizer.decode(list(ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def _cut(self, answer: Answer, stops: Sequence[str]) -> _Done:
        text = self._decode(answer.ids)
        cut = min((at for at in (text.find(stop) for stop in stops) if at >= 0), default=None)
        if cut is None:
            return _Done(text, answer.ids, answer.finish_reason, answer.logprobs)
        kept = bisect_left(range(len(answer.ids)), cut, key=lambda k: len(self._decode(answer.ids[:k])))
        dropped = len(answer.ids) - kept
        scored = answer.logprobs[: len(answer.logprobs) - dropped] if answer.logprobs else []
        return _Done(text[:cut], answer.ids[:kept], "stop", scored)

    def _choice(self, index: int, prompt: list[int], done: _Done, request: CompletionRequest) -> dict[str, Any]:
        text = (self._raw_text(prompt) if request.echo else "") + done.text
        scored = None
        if request.logprobs is not None:
            ids = [*prompt, *done.ids] if request.echo else done.ids
            tokens = [self._raw_text([token]) for token in ids]
            scored = {
                "tokens": tokens,
                "token_logprobs": [None, *done.logprobs] if request.echo else done.logprobs,
                "top_logprobs": None,
                "text_offset": [0, *accumulate(map(len, tokens[:-1]))] if tokens else [],
            }
        return {"index": index, "text": text, "finish_reason": done.finish_reason, "logprobs": scored}

    def _raw_text(self, ids: Sequence[int]) -> str:
        text = self.format.tokenizer.decode(list(ids))  # an echoed prompt shows its special tokens
        assert isinstance(text, str)
        return text


def _read_limits(folder: str) -> _Limits:
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError):
        return _Limits(None, None)
    text = config.get("text_config", config)
    return _Limits(text.get("max_position_embeddings"), text.get("vocab_size"))
