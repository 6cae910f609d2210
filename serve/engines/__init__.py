"""What computes answers, behind one small interface. To add an engine: a module here, its line below, its name in
`ServingSettings.engine`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serve.settings import HostedModel, ServingSettings
from serve.work import Failure, Piece, Work


@dataclass(frozen=True)
class Vocabulary:
    """What all students of an endpoint share: the ids that end and pad a sequence, and whose tokenizer decodes them."""

    stop_id: int
    pad_id: int
    tokenizer_folder: str


@dataclass
class Statistics:
    """What a replica did since it started; `running` sequences are being written now.

    Attributes:
        steps: forward passes that gave each running sequence a token.
        largest_step: most sequences in one of them.
        loads: checkpoints read into memory, `adapters` LoRA adapters.
    """

    steps: int = 0
    sequences: int = 0
    tokens: int = 0
    largest_step: int = 0
    loads: int = 0
    adapters: int = 0
    running: int = 0
    rss_bytes: int = 0


class StudentEngine(Protocol):
    """Answers work for hosted models, many at a time, in one event loop."""

    def answer(self, work: Work) -> AsyncIterator[list[Piece] | Failure]:
        """Pieces as they are made; a failure ends them. Closing the iterator ends the work between two tokens."""
        ...

    async def load(self, copy_id: str) -> Any:
        """Read what `HostedModel.copy_id` names into memory; the deployment's cache calls it and drops what it evicts."""
        ...

    def statistics(self) -> Statistics:
        """Counts since the start."""
        ...


Fetch = Callable[[str], Awaitable[Any]]
"""What `load` gave for a copy id, from the deployment's cache or by calling it."""


def make_engine(
    models: Sequence[HostedModel], settings: ServingSettings, vocabulary: Vocabulary, fetch: Fetch
) -> StudentEngine:
    """The engine that the settings name."""
    match settings.engine:
        case "vllm":
            from serve.engines.vllm import VllmEngine

            return VllmEngine(models, settings, vocabulary, fetch)
        case "null":
            from serve.engines.null import NullEngine

            return NullEngine(vocabulary)
        case "transformers":
            from serve.engines.running import RunningEngine

            return RunningEngine(models, settings, vocabulary, fetch)
