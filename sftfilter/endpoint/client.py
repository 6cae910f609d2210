"""Asks an endpoint through the openai client: paced, retried, journalled, many requests at a time.

The client's own retries are off: it gives up on bodies that are no JSON, and a limit has to see every attempt.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sftfilter.config import stable_hash
from sftfilter.endpoint.direct import direct_mounts, on_this_machine
from sftfilter.endpoint.pacing import pace_of, pause
from sftfilter.endpoint.replies import Answer, Failure, Trouble, read_answer, read_refusal
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import EvalError, MachineError
from sftfilter.private import SECRET_LENGTH, read_private_file, remember
from sftfilter.schema import Message

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from sftfilter.journal import Journal

_NO_KEY = "none"
_CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class ChatRequest:
    """One conversation to be continued, and how the answer is drawn.

    The seed tells one draw from another even where it is not sent: two samples are two requests, and so is another try.
    """

    messages: Sequence[Message]
    max_tokens: int
    temperature: float
    seed: int
    top_p: float | None = None

    def body(self, endpoint: Endpoint) -> dict[str, Any]:
        """The request's fields, without those that the endpoint refuses."""
        fields = {"model": endpoint.model} | asdict(self)
        return {k: v for k, v in fields.items() if v is not None and k not in endpoint.omit}


class ChatClient:
    """Answers for requests. One that fails costs itself only; what a person must mend stops all of them.

    Args:
        api_key: default: what the endpoint's `api_key_env` or `api_key_file` names.
        journal: answers that arrived before, and where new ones are kept.
        direct: the endpoint is one that we host: the environment's proxies are left out, as for loopback addresses.
    """

    def __init__(
        self, endpoint: Endpoint, *, api_key: str | None = None, journal: Journal | None = None, direct: bool = False
    ) -> None:
        import openai

        self.endpoint = endpoint
        self.journal = journal
        self.paid = 0
        self._key = api_key or api_key_of(endpoint)
        around = direct_mounts(endpoint.base_url) if direct or on_this_machine(endpoint.base_url) else None
        self.openai: AsyncOpenAI = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=self._key,
            timeout=endpoint.timeout_s,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(mounts=around) if around else None,
        )
        self._pace = pace_of(endpoint)
        self._gate = asyncio.Semaphore(endpoint.concurrency)
        self._asking: dict[str, asyncio.Task[Answer | Failure]] = {}
        self._resume_at = 0.0
        self._failed_in_a_row = 0
        self._answered = bool(journal)
        self._stopped: EvalError | None = None

    async def ask_all(self, requests: Sequence[ChatRequest]) -> list[Answer | Failure]:
        """Answers in the order of the requests.

        Raises:
            EvalError: the endpoint cannot be used as it stands; answers that were under way were waited for and kept.
        """
        found = await asyncio.gather(*(self.ask(r) for r in requests), return_exceptions=True)
        for problem in found:
            if isinstance(problem, BaseException):
                raise problem
        return [answer for answer in found if not isinstance(answer, BaseException)]

    async def ask(self, request: ChatRequest) -> Answer | Failure:
        """The answer to one request; the same draw is asked for once at a time, and once only with a journal."""
        body = request.body(self.endpoint)
        key = stable_hash([self.endpoint.answers_hash, body, request.seed])
        if self.journal is not None and (kept := self.journal.get(key)) is not None:
            return Answer(**kept)
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._ask_new(key, body))
            self._asking[key].add_done_callback(lambda _: self._asking.pop(key))
        return await asyncio.shield(self._asking[key])

    async def _ask_new(self, key: str, body: dict[str, Any]) -> Answer | Failure:
        async with self._gate:
            outcome = await self._persist(body)
        if isinstance(outcome, Answer):
            self._failed_in_a_row = 0
            self._answered = True
            if self.journal is not None:
                self.journal.put(key, outcome.as_dict())
            return outcome
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self.endpoint.give_up_after:
            self._stopped = self._stopped or EvalError(
                f"{self.endpoint.base_url}: {self._failed_in_a_row} requests in a row to model {self.endpoint.model} got no "
                f"answer, the last: {outcome.reason}\nWhat was answered is kept; mend the endpoint and run again."
            )
            raise self._stopped
        return Failure(outcome.reason, outcome.code)

    async def _persist(self, body: Mapping[str, Any]) -> Answer | Trouble:
        """Attempts until there is an answer, or until there is none to be had."""
        tokens = sum(len(m["content"]) for m in body["messages"]) / _CHARACTERS_A_TOKEN + (body.get("max_tokens") or 0)
        for attempt in range(self.endpoint.retries + 1):
            await self._wait_for_turn(tokens)
            try:
                outcome = await self._attempt(body)
            except EvalError as error:
                self._stopped = self._stopped or error
                raise
            if isinstance(outcome, Answer):
                used = (outcome.prompt_tokens or 0) + (outcome.completion_tokens or 0)
                if used:
                    await self._pace.give_back(tokens - used)
                return outcome
            if outcome.final or attempt == self.endpoint.retries:
                attempts = "" if outcome.final else f" ({attempt + 1} attempts)"
                return replace(outcome, reason=outcome.reason + attempts)
            if not outcome.wait:
                await asyncio.sleep(pause(attempt))
            else:  # the server's wish holds for every request
                self._resume_at = max(self._resume_at, time.monotonic() + outcome.wait)
        raise AssertionError("unreachable")

    async def _wait_for_turn(self, tokens: float) -> None:
        await self._pace.wait(tokens)
        while (left := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(left + 0.1 * pause(0))
        if self._stopped:
            raise self._stopped

    async def _attempt(self, body: Mapping[str, Any]) -> Answer | Trouble:
        import openai

        self.paid += 1
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):  # the client's own limit holds for each read
                create: Any = self.openai.chat.completions.with_raw_response.create
                reply = await create(**body, extra_body=self.endpoint.extra_body or None)
                return read_answer(self._redact(reply.content))
        except (TimeoutError, openai.APITimeoutError):
            return Trouble(f"no answer within {self.endpoint.timeout_s:g} s")
        except openai.APIStatusError as error:
            text = self._redact(error.response.content).decode("utf-8", "replace")
            said = error.status_code, error.response.headers, text
            return read_refusal(self.endpoint, *said, answered=self._answered)
        except openai.APIConnectionError as error:
            return Trouble(f"no connection: {error.__cause__ or error}")

    def _redact(self, body: bytes) -> bytes:
        """Servers quote keys in their errors, and what they send ends in tables and logs.

        Words such as `EMPTY` or `token`, which people give servers that want any key, are no secret and would be found
        in honest answers.
        """
        return body if len(self._key) < SECRET_LENGTH else body.replace(self._key.encode(), b"[key]")


class BlockingClient:
    """The client for code that is not asynchronous, such as a Ray Data actor: one event loop for as long as it lives."""

    def __init__(self, endpoint: Endpoint, journal: Journal | None = None) -> None:
        self.client = ChatClient(endpoint, journal=journal)
        self._runner = asyncio.Runner()

    def ask_all(self, requests: Sequence[ChatRequest]) -> list[Answer | Failure]:
        """As `ChatClient.ask_all`."""
        return self._runner.run(self.client.ask_all(requests))


def api_key_of(endpoint: Endpoint) -> str:
    """The endpoint's key, from its file or the environment; a placeholder where it names neither.

    Raises:
        MachineError: the file or variable that it names is not there.
    """
    if endpoint.api_key_file is not None:
        return read_private_file(endpoint.api_key_file, f"{endpoint.base_url}: `api_key_file`")
    if endpoint.api_key_env is None:
        return _NO_KEY
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise MachineError(
            f"{endpoint.base_url}: the environment variable {endpoint.api_key_env}, which `api_key_env` names, is not set "
            f"on {os.uname().nodename}: set it where the job runs, on every node"
        )
    remember(key, endpoint.api_key_env)
    return key
