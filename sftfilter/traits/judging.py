"""Judges of answers: any chat endpoint, or a trait's own rules in its place, which every result then says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sftfilter.config import Settings
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import EvalError
from sftfilter.schema import Message

if TYPE_CHECKING:
    from sftfilter.endpoint.client import ChatClient


class StandIn(Settings):
    """The trait's own exact rules instead of a judge: for trying things out, and for machines with no way out."""

    kind: Literal["stand_in"] = "stand_in"


class EndpointJudge(Settings):
    """A model asked over HTTP, with the trait's rubric."""

    kind: Literal["endpoint"]
    endpoint: Endpoint
    max_tokens: Annotated[int, Field(gt=0)] = 512
    temperature: Annotated[float, Field(ge=0)] = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """Model and address."""
        return f"{self.endpoint.model} at {self.endpoint.base_url}"


Judge = Annotated[StandIn | EndpointJudge, Field(discriminator="kind")]


@dataclass(frozen=True)
class Opinion:
    """What a judge said; without `text`, `error` says why there is none.

    Attributes:
        finish_reason: why the answer ended, as the server says.
        cut: how it ended before its end; then it is no grade, whatever it seems to say: `SCORE: 1` may be the beginning
            of a 10.
    """

    text: str | None
    model: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    cut: str | None = None


class Judging:
    """Asks judges, each answer once: they are journalled, so that a run that goes on does not ask again.

    A judge that cannot be reached costs its samples, never the run: they are missing until it can be.

    Args:
        root: folder below which answers are kept; None keeps none.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._clients: dict[str, ChatClient] = {}
        self._down: dict[str, str] = {}

    async def ask(self, judge: EndpointJudge, messages: Sequence[Message]) -> Opinion:
        """The judge's answer to one conversation."""
        from sftfilter.endpoint.client import ChatRequest
        from sftfilter.endpoint.replies import Failure

        key = judge.endpoint.answers_hash
        if key in self._down:
            return Opinion(None, error=self._down[key])
        try:
            request = ChatRequest(messages, judge.max_tokens, judge.temperature, judge.seed)
            answer = await self._client(judge.endpoint).ask(request)
        except EvalError as error:
            self._down[key] = str(error)  # it said that it will not answer, or did not for long: nobody asks any more
            return Opinion(None, error=str(error))
        if isinstance(answer, Failure):
            return Opinion(None, error=answer.reason)
        cut = answer.cut(judge.max_tokens)
        return Opinion(
            answer.text, answer.model, finish_reason=answer.finish_reason, cut=cut and f"the judge's answer was {cut}"
        )

    def _client(self, endpoint: Endpoint) -> ChatClient:
        from sftfilter.endpoint.client import ChatClient
        from sftfilter.journal import Journal, journal_folder

        key = endpoint.answers_hash
        if key not in self._clients:
            journal = Journal(journal_folder(self._root, key)) if self._root else None
            self._clients[key] = ChatClient(endpoint, journal=journal)
        return self._clients[key]

    @property
    def trouble(self) -> list[str]:
        """Why judges were given up."""
        return list(self._down.values())

    async def close(self) -> None:
        """Close connections and journals."""
        for client in self._clients.values():
            await client.openai.close()
        self.close_journals()

    def close_journals(self) -> None:
        """Where the event loop that held the connections has ended with them."""
        for client in self._clients.values():
            if client.journal is not None:
                client.journal.close()
        self._clients.clear()
