"""From an OpenAI request to token ids, and from new token ids to an OpenAI reply. Knows neither HTTP nor Serve."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from serve.protocol import ApiError, ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest, Turn
from serve.replies import DONE, ChatShape, CompletionShape, Part, Shape, envelope, event, usage
from serve.settings import HostedModel, ServingSettings
from serve.token_text import GrowingText, TokenText
from serve.work import Answer, Failure, Piece, Work
from sftfilter.generate_request import GenerateRequest, TokenScore

if TYPE_CHECKING:
    from sftfilter.chat_format import ChatFormat

_MAX_SEQUENCES = 1024
_SEED_STRIDE = 1_000_003  # samples of one request are far from those of a request with the next seed
_GRACE_S = 1.0  # the students themselves end what takes too long; this is for when they are not heard of


class Ask(Protocol):
    """How to reach the students."""

    async def whole(self, copy_id: str, work: Work) -> list[Answer] | Failure:
        """Whole answers, in the order of the sequences."""
        ...

    def pieces(self, copy_id: str, work: Work) -> AsyncIterator[list[Piece] | Failure]:
        """Pieces as they are made; closing the iterator ends the work."""
        ...


@dataclass(frozen=True)
class _Limits:
    """What a checkpoint's configuration allows; None where it cannot be read (its replica will say why)."""

    context: int | None
    vocabulary: int | None


@dataclass(frozen=True)
class Job:
    """A request that was found to be in order.

    Attributes:
        prompts: of each sequence.
        prompt_tokens: of the request, a prompt that is answered several times counted once.
        echo: the prompts are part of the answer.
    """

    model: HostedModel
    shape: Shape
    work: Work
    prompts: list[list[int]]
    prompt_tokens: int
    scored: bool
    echo: bool
    wants_usage: bool


@dataclass
class _Grown:
    """What is known of one sequence of a stream.

    Attributes:
        held: scores of tokens that the client has not seen yet.
        sent: tokens that it has, but for `end`.
        begun: whether it has seen anything.
        end: the stop token, if that ended it and is shown.
    """

    text: GrowingText
    held: list[TokenScore] = field(default_factory=list)
    sent: int = 0
    begun: bool = False
    ended: bool = False
    end: int | None = None

    @property
    def written(self) -> int:
        """Tokens that the model wrote, as far as they are shown."""
        return self.text.kept + (self.end is not None)


class Gateway:
    """The endpoint's behaviour."""

    def __init__(
        self, models: Sequence[HostedModel], settings: ServingSettings, chat_format: ChatFormat, ask: Ask
    ) -> None:
        self.models = {model.id: model for model in models}
        self.settings = settings
        self.format = chat_format
        self.ask = ask
        self.tokens = TokenText(chat_format.tokenizer)
        self._limits = {model.id: _read_limits(model.folder) for model in models}

    def chat_job(self, request: ChatRequest) -> Job:
        """Check a body of `/v1/chat/completions`."""
        model = self._model(request.model)
        prompt = self._chat_ids(request.messages)
        limit = self._max_tokens(model.id, [prompt], request.max_completion_tokens or request.max_tokens)
        return self._job(request, model, [prompt], limit, ChatShape(self.tokens))

    def completion_job(self, request: CompletionRequest) -> Job:
        """Check a body of `/v1/completions`."""
        model = self._model(request.model)
        prompts = [self._raw_ids(model.id, prompt) for prompt in request.prompts()]
        wanted = 16 if request.max_tokens is None else request.max_tokens  # OpenAI's own default here
        limit = self._max_tokens(model.id, prompts, wanted)
        return self._job(request, model, prompts, limit, CompletionShape(self.tokens), echo=bool(request.echo))

    def _job(
        self,
        request: ChatRequest | CompletionRequest,
        model: HostedModel,
        prompts: list[list[int]],
        limit: int,
        shape: Shape,
        echo: bool = False,
    ) -> Job:
        repeated = [(prompt, k) for prompt in prompts for k in range(request.n or 1)]
        if len(repeated) > _MAX_SEQUENCES:
            said = f"{len(repeated)} sequences in one request; the limit is {_MAX_SEQUENCES}"
            raise ApiError(400, said, param="prompt")
        seed = secrets.randbits(63) if request.seed is None else request.seed
        sequences = [
            GenerateRequest(
                prompt,
                limit,
                1.0 if request.temperature is None else request.temperature,
                (seed + sample * _SEED_STRIDE) % 2**63,
                1.0 if request.top_p is None else request.top_p,
                request.alternatives,
            )
            for prompt, sample in repeated
        ]
        scored = request.alternatives is not None
        score_prompts = request.alternatives if echo else None
        work = Work(model.id, sequences, request.stops, score_prompts, self.settings.request_timeout_s)
        count = sum(map(len, prompts))
        return Job(model, shape, work, [p for p, _ in repeated], count, scored, echo, request.wants_usage_chunk)

    async def answer(self, job: Job) -> dict[str, Any]:
        """The whole reply."""
        try:
            result = await asyncio.wait_for(
                self.ask.whole(job.model.copy_id, job.work), self.settings.request_timeout_s + _GRACE_S
            )
        except TimeoutError:
            limit = f"{self.settings.request_timeout_s:g} s"
            raise ApiError(504, f"no answer within {limit}", code="timeout", retry_after_s=5) from None
        if isinstance(result, Failure):
            raise _as_error(result)
        parts = [self._part(job, k, answer) for k, answer in enumerate(result)]
        counts = usage(job.prompt_tokens, sum(part.written for part in parts))
        choices = [job.shape.choice(k, part, job.scored) for k, part in enumerate(parts)]
        return envelope(job.shape, job.model.id, job.model.model_hash) | {"choices": choices, "usage": counts}

    def _part(self, job: Job, index: int, answer: Answer) -> Part:
        """An answer, cut at its stop string."""
        text = self.tokens.decode(answer.ids)
        ids, reason = answer.ids, answer.finish_reason
        end = answer.end if job.shape.shows_end else None
        if any(stop in text for stop in job.work.stops):
            growing = GrowingText(self.tokens, job.work.stops)
            text = growing.add(ids, last=True)
            ids, reason, end = ids[: growing.kept], "stop", None
        before = [None, *answer.prompt_scores] if job.echo else []
        prompt = job.prompts[index] if job.echo else ()
        scores = answer.scores[: len(ids) + (end is not None)]
        return Part(text, ids, [*before, *scores], reason, prompt, end)

    async def stream(self, job: Job) -> AsyncIterator[str]:
        """Server-sent events. What goes wrong before the first of them is raised, later it is an event of its own.

        Raises:
            ApiError: there is no answer at all.
        """
        head = envelope(job.shape, job.model.id, job.model.model_hash, chunk=True)
        grown = [_Grown(GrowingText(self.tokens, job.work.stops)) for _ in job.work.sequences]
        started = False
        async with aclosing(self.ask.pieces(job.model.copy_id, job.work)) as stream:  # pyright: ignore[reportArgumentType]
            async for pieces in stream:
                if isinstance(pieces, Failure):
                    if not started:
                        raise _as_error(pieces)
                    yield event(_as_error(pieces).body())
                    return
                for piece in pieces:
                    one = grown[piece.index]
                    if not one.ended and (part := self._growth(job, piece, one)):
                        yield event(head | {"choices": [job.shape.chunk(piece.index, part, job.scored, not one.begun)]})
                        one.begun = started = True
                if all(one.ended for one in grown):
                    break
        if job.wants_usage:
            counts = usage(job.prompt_tokens, sum(one.written for one in grown))
            yield event(head | {"choices": [], "usage": counts})
        yield DONE

    def _growth(self, job: Job, piece: Piece, grown: _Grown) -> Part | None:
        """What a piece adds to what its sequence's client has seen; None where that is nothing yet."""
        growing, sent = grown.text, grown.sent
        if job.echo and piece.prompt_scores is not None:
            before, prompt = [None, *piece.prompt_scores], job.prompts[piece.index]
        elif job.echo and not job.scored and not sent and not growing.kept:
            before, prompt = [], job.prompts[piece.index]
        else:
            before, prompt = [], ()
        new = growing.add(piece.ids, last=piece.finish_reason is not None)
        grown.held += piece.scores
        reason = "stop" if growing.stopped else piece.finish_reason
        grown.ended = reason is not None
        if not (new or reason or prompt):
            return None
        grown.end = piece.end if job.shape.shows_end and not growing.stopped else None
        ids = growing.tokens_from(sent)
        count = len(ids) + (grown.end is not None)
        scores = grown.held[:count]
        del grown.held[:count]
        grown.sent = growing.kept
        return Part(new, ids, [*before, *scores], reason, prompt, grown.end)

    def tokenize(self, request: TokenizeRequest) -> dict[str, Any]:
        """Token ids, as vLLM answers them."""
        model = self._model(request.model) if request.model else next(iter(self.models.values()))
        if request.messages:
            ids = self._chat_ids(request.messages)
        else:
            ids = self.format.tokenizer(request.prompt, add_special_tokens=request.add_special_tokens).input_ids
        return {"count": len(ids), "max_model_len": self._limits[model.id].context, "tokens": ids}

    def detokenize(self, request: DetokenizeRequest) -> dict[str, Any]:
        """Text of token ids."""
        model = self._model(request.model) if request.model else next(iter(self.models.values()))
        self._check_vocabulary(model.id, request.tokens, "tokens")
        return {"prompt": self.tokens.decode(request.tokens, special=True)}

    def tokenizer_info(self) -> dict[str, Any]:
        """What clients need to render chats themselves."""
        tokenizer = self.format.tokenizer
        special = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
        return special | {
            "tokenizer_class": type(tokenizer).__name__,
            "chat_template": tokenizer.chat_template,
            "vocab_size": len(tokenizer),
            "format_hash": self.format.hash,
            "system_prompt": self.format.system_prompt,
        }

    def check_model(self, model_id: str) -> None:
        """Raise the 404 of an unknown model."""
        self._model(model_id)

    def context(self, model_id: str) -> int | None:
        """Tokens that prompt and answer may have together."""
        return self._limits[model_id].context

    def _model(self, model_id: str) -> HostedModel:
        if model_id not in self.models:
            known = ", ".join(sorted(self.models))
            raise ApiError(404, f"no model '{model_id}' here; models: {known}", param="model", code="model_not_found")
        return self.models[model_id]

    def _chat_ids(self, messages: Sequence[Turn]) -> list[int]:
        try:
            return self.format.prompt_ids([turn.message() for turn in messages])
        except Exception as error:  # templates refuse conversations with whatever their author raised
            raise ApiError(400, f"the chat template refuses these messages: {error}", param="messages") from error

    def _raw_ids(self, model_id: str, prompt: str | list[int]) -> list[int]:
        ids = self.format.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
        if not ids:
            raise ApiError(400, "a prompt is empty", param="prompt")
        self._check_vocabulary(model_id, ids, "prompt")
        return ids

    def _check_vocabulary(self, model_id: str, ids: Sequence[int], param: str) -> None:
        size = self._limits[model_id].vocabulary
        if size is not None and max(ids, default=0) >= size:
            raise ApiError(400, f"token id {max(ids)} is outside the vocabulary of {size}", param=param)

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


def _as_error(failure: Failure) -> ApiError:
    return ApiError(failure.status, failure.message, code=failure.code, retry_after_s=failure.retry_after_s)


def _read_limits(folder: str) -> _Limits:
    try:
        config: Mapping[str, Any] = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError):
        return _Limits(None, None)
    text = config.get("text_config", config)
    return _Limits(text.get("max_position_embeddings"), text.get("vocab_size"))
