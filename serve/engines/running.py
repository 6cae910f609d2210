"""The transformers engine: a running batch for each checkpoint in memory, which requests join and leave at any token.

One thread does all the work, a step of one batch after a step of another: a second forward pass at the same time would
only compete for the same cores or GPU, and the event loop stays free.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from serve.engines import Fetch, Statistics, Vocabulary
from serve.engines.weights import BrokenCheckpointError, Weights, brief, open_adapter, open_weights, use_threads
from serve.settings import HostedModel, ServingSettings
from serve.work import Failure, Piece, Work
from sftfilter.generate_request import NOT_FINITE

if TYPE_CHECKING:
    from sftfilter.decoder import Row, Token
    from sftfilter.generate_request import TokenScore

T = TypeVar("T")

_REMEMBER_BROKEN_S = 60.0
_TURN_S = 2.0
"""How long, at least, requests for a checkpoint in memory may overtake older ones whose own has to be loaded first."""
_TURN_LOADS = 4
"""The same, in the time that it took to load it: no more than a fifth of all time goes into loading."""


@dataclass(eq=False)
class Ticket:
    """A request's place in the line, and later in a batch.

    Attributes:
        rows: its sequences that are being written.
        unscored: its prompts that are yet to be scored.
        left: sequences without their last piece.
    """

    model: HostedModel
    work: Work
    since: float = field(default_factory=time.monotonic)
    gone: bool = False
    rows: dict[Row, int] = field(default_factory=dict)
    unscored: list[int] = field(default_factory=list)
    left: int = 0
    out: asyncio.Queue[list[Piece] | Failure] = field(default_factory=asyncio.Queue)

    def fail(self, failure: Failure) -> None:
        """End it for this reason."""
        self.left, self.gone = 0, True
        self.out.put_nowait(failure)


@dataclass(eq=False)
class _Batch:
    """Weights that are in use, who uses them, and until when newcomers may."""

    weights: Weights
    until: float
    tickets: list[Ticket] = field(default_factory=list)

    @property
    def room(self) -> int:
        decoder = self.weights.decoder
        return decoder.max_rows - len(decoder.rows) - len(decoder.waiting)


class RunningEngine:
    """See the module; `StudentEngine` is its interface."""

    def __init__(
        self, models: Sequence[HostedModel], settings: ServingSettings, vocabulary: Vocabulary, fetch: Fetch
    ) -> None:
        self.models = {model.id: model for model in models}
        self.copies = {model.copy_id: model for model in models}
        self.settings, self.vocabulary, self.fetch = settings, vocabulary, fetch
        self._done = Statistics()
        self._line: deque[Ticket] = deque()
        self._batches: dict[str, _Batch] = {}
        self._runner: asyncio.Task[None] | None = None
        self._broken: dict[str, tuple[float, str]] = {}
        self._ends: _Ends | None = None
        # Ray sets OMP_NUM_THREADS from the CPUs a replica reserves, which are few: see ServingSettings.threads.
        self._worker = ThreadPoolExecutor(1, "student", use_threads, (settings.threads,))

    async def load(self, copy_id: str) -> Weights:
        """Read a checkpoint into memory."""
        self._done.loads += 1
        return await self._work(open_weights, self.copies[copy_id], self.settings, self.vocabulary)

    def statistics(self) -> Statistics:
        """Counts since the start."""
        self._done.running = sum(len(batch.weights.decoder.rows) for batch in self._batches.values())
        self._done.rss_bytes = psutil.Process().memory_info().rss
        return self._done

    async def answer(self, work: Work) -> AsyncIterator[list[Piece] | Failure]:
        """Pieces as they are made."""
        if work.model not in self.models:
            yield Failure(404, f"no model '{work.model}'", "model_not_found")
            return
        ticket = Ticket(self.models[work.model], work, left=len(work.sequences))
        self._line.append(ticket)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        open_ones = ticket.left
        try:
            while open_ones:
                left = ticket.since + work.timeout_s - time.monotonic()
                got = await asyncio.wait_for(ticket.out.get(), left)
                yield got
                if isinstance(got, Failure):
                    return
                open_ones -= sum(piece.finish_reason is not None for piece in got)
        except TimeoutError:
            yield Failure(504, f"no answer within {work.timeout_s:g} s", "timeout", retry_after_s=5)
        finally:
            ticket.gone = True

    async def _run(self) -> None:
        """Steps until nobody waits. A failure here would leave everybody waiting, so it ends them instead."""
        try:
            while self._line or any(batch.tickets for batch in self._batches.values()):
                self._let_go()
                await self._admit()
                for batch in [batch for batch in self._batches.values() if batch.tickets]:
                    await self._advance(batch)
        except BaseException as error:
            stopped = Failure(503, "the replica is shutting down", "unavailable", retry_after_s=5)
            for ticket in [*self._line, *(t for batch in self._batches.values() for t in batch.tickets)]:
                ticket.fail(stopped)
            self._line.clear()
            self._batches.clear()
            if not isinstance(error, Exception):
                raise

    def _let_go(self) -> None:
        """Take out requests that ended, or whose client is gone."""
        self._line = deque(ticket for ticket in self._line if not ticket.gone)
        for batch in self._batches.values():
            for ticket in [t for t in batch.tickets if t.gone or not t.left]:
                for row in ticket.rows:
                    batch.weights.decoder.remove(row)
                batch.tickets.remove(ticket)

    async def _admit(self) -> None:
        """Let requests into batches in the order of their arrival, as far as there is room."""
        somebody_waits = False
        for ticket in list(self._line):
            batch = self._batches.get(ticket.model.copy_id)
            if batch is not None and somebody_waits and time.monotonic() > batch.until:
                continue  # so that it runs dry and makes room
            try:
                if batch is None:
                    batch = await self._open(ticket.model)
                if batch is None:
                    somebody_waits = True
                    continue
                if batch.room <= 0 or not await self._adapted(ticket.model, batch):
                    continue
            except BrokenCheckpointError as error:
                self._broken[ticket.model.id] = (time.monotonic(), str(error))
                ticket.fail(Failure(500, str(error), "model_broken"))
            except Exception as error:  # out of memory, a device error
                ticket.fail(Failure(500, f"model '{ticket.model.id}': {brief(error)}", "loading_failed"))
            else:
                self._join(ticket, batch)
            self._line.remove(ticket)

    async def _open(self, model: HostedModel) -> _Batch | None:
        """A batch for weights that nobody uses yet; None while all there is room for are in use.

        Weights in use are never evicted: they count here until their last request has left, and are touched before the
        deployment's cache may look for the longest unused ones.
        """
        # Remembered for a while: every attempt to load a broken checkpoint would evict a healthy one first.
        when, reason = self._broken.get(model.id, (-_REMEMBER_BROKEN_S, ""))
        if time.monotonic() - when < _REMEMBER_BROKEN_S:
            raise BrokenCheckpointError(reason)
        self._batches = {copy_id: batch for copy_id, batch in self._batches.items() if batch.tickets}
        if len(self._batches) >= self.settings.models_in_memory:
            return None
        for copy_id in self._batches:
            await self.fetch(copy_id)
        began = time.monotonic()
        weights = await self.fetch(model.copy_id)
        now = time.monotonic()
        batch = self._batches[model.copy_id] = _Batch(weights, now + max(_TURN_S, _TURN_LOADS * (now - began)))
        return batch

    async def _adapted(self, model: HostedModel, batch: _Batch) -> bool:
        if not _has_adapter(model) or (batch.weights.bank and model.id in batch.weights.bank.weights):
            return True
        used = [ticket.model.id for ticket in batch.tickets]
        self._done.adapters += 1
        return await self._work(open_adapter, model, batch.weights, self.settings.adapters_in_memory, used)

    def _join(self, ticket: Ticket, batch: _Batch) -> None:
        work = ticket.work
        batch.tickets.append(ticket)
        self._done.sequences += len(work.sequences)
        if work.score_prompts is not None:
            ticket.unscored = list(range(len(work.sequences)))
            return
        self._write(ticket, batch, range(len(work.sequences)))
        nothing = [Piece(i, finish_reason="length") for i, r in enumerate(work.sequences) if r.max_tokens == 0]
        if nothing:
            self._give(ticket, nothing)

    def _write(self, ticket: Ticket, batch: _Batch, sequences: Iterable[int]) -> None:
        """Continue some of a request's sequences. Prompts are scored before: a last piece ends the waiting for scores."""
        adapter = ticket.model.id if _has_adapter(ticket.model) else None
        for i in sequences:
            request = ticket.work.sequences[i]
            if request.max_tokens > 0:
                ticket.rows[batch.weights.decoder.add(request, adapter)] = i

    async def _advance(self, batch: _Batch) -> None:
        """Score some prompts and write one more token of every sequence."""
        try:
            for ticket, pieces in await self._work(self._score, batch):
                self._give(ticket, pieces)
                self._write(ticket, batch, [piece.index for piece in pieces])
            if batch.weights.decoder.busy:
                tokens = await self._work(batch.weights.decoder.step)
                self._done.steps += 1
                self._done.tokens += len(tokens)
                self._done.largest_step = max(self._done.largest_step, len(tokens))
                self._hand_out(batch, tokens)
        except Exception as error:  # out of memory, a device error: these requests fail, the replica goes on
            batch.weights.restart()
            for ticket in batch.tickets:
                failed = f"model '{ticket.model.id}': {brief(error)}"
                ticket.fail(Failure(500, failed, "generation_failed"))
            batch.tickets.clear()

    def _score(self, batch: _Batch) -> list[tuple[Ticket, list[Piece]]]:
        """Score prompts of the request that waits longest, about one pass of them.

        Never together with another request's: the last digits depend on what shares a pass, and would then follow from
        who happened to ask at the same time.
        """
        ticket = next((t for t in batch.tickets if t.unscored and not t.gone), None)
        if ticket is None:
            return []
        engine, model = batch.weights.engine, ticket.model
        taken: list[int] = []
        size = 0
        while ticket.unscored and (not taken or size < engine.pass_tokens):
            taken.append(ticket.unscored.pop(0))
            size += len(ticket.work.sequences[taken[-1]].prompt_ids)
        if batch.weights.bank is not None:
            batch.weights.bank.use_one(model.id if _has_adapter(model) else None)
        prompts = [ticket.work.sequences[i].prompt_ids for i in taken]
        scored = engine.token_scores(prompts, [1] * len(prompts), ticket.work.score_prompts or 0)
        if not all(math.isfinite(score.logprob) for scores in scored for score in scores):
            ticket.fail(_no_numbers(ticket.model))
        if ticket.gone:
            return []
        return [(ticket, [_scored_piece(ticket.work, i, scores) for i, scores in zip(taken, scored, strict=True)])]

    def _hand_out(self, batch: _Batch, tokens: Sequence[Token]) -> None:
        owners = {row: ticket for ticket in batch.tickets for row in ticket.rows}
        made: dict[Ticket, list[Piece]] = {}
        for token in tokens:
            ticket = owners[token.row]
            if not token.finite and not ticket.gone:
                ticket.fail(_no_numbers(ticket.model))
                made.pop(ticket, None)
            if ticket.gone:
                continue
            reason = token.finish_reason
            if reason is None and ticket.work.stops and self._stopped(token, ticket.work.stops):
                reason = "stop"
                batch.weights.decoder.remove(token.row)
            index = ticket.rows[token.row]
            if reason:
                del ticket.rows[token.row]
            ids, end = ([token.id], None) if token.id is not None else ([], self.vocabulary.stop_id)
            scores = [token.score] if token.score else []
            made.setdefault(ticket, []).append(Piece(index, ids, scores, None, reason, end))
        for ticket, pieces in made.items():
            self._give(ticket, pieces)

    def _stopped(self, token: Token, stops: Sequence[str]) -> bool:
        if self._ends is None:
            self._ends = _Ends(self.vocabulary.tokenizer_folder)
        new = token.row.ids[len(token.row.request.prompt_ids) :]
        return self._ends.contain(new, stops)

    def _give(self, ticket: Ticket, pieces: list[Piece]) -> None:
        ticket.left -= sum(piece.finish_reason is not None for piece in pieces)
        ticket.out.put_nowait(pieces)

    async def _work(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, call, *arguments)


def _has_adapter(model: HostedModel) -> bool:
    return model.adapter is not None and model.adapter.folder is not None


def _no_numbers(model: HostedModel) -> Failure:
    """Of the model's own weights: the others of its batch go on."""
    return Failure(500, f"model '{model.id}': its logits are no numbers (NaN), so its weights are broken", NOT_FINITE)


def _scored_piece(work: Work, i: int, scores: list[TokenScore]) -> Piece:
    done = work.sequences[i].max_tokens == 0
    return Piece(i, prompt_scores=scores, finish_reason="length" if done else None)


class _Ends:
    """Finds stop strings in what was written last."""

    def __init__(self, tokenizer_folder: str) -> None:
        from sftfilter.models import load_tokenizer

        self.tokenizer = load_tokenizer(tokenizer_folder)

    def contain(self, ids: list[int], stops: Sequence[str]) -> bool:
        """Whether one of the strings ends in the last token's text. A character takes up to four tokens."""
        window = ids[-4 * max(map(len, stops)) - 4 :]
        text = self.tokenizer.decode(window, skip_special_tokens=True)
        return any(stop in text for stop in stops)


async def collect(pieces: AsyncIterator[list[Piece] | Failure]) -> list[Piece] | Failure:
    """All pieces, or the failure that ended them."""
    found: list[Piece] = []
    async with aclosing(pieces) as stream:  # pyright: ignore[reportArgumentType]
        async for part in stream:
            if isinstance(part, Failure):
                return part
            found += part
    return found
