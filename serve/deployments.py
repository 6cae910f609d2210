"""The Serve application: students and what answers HTTP, in one replica where there is only one, otherwise an ingress
deployment around the FastAPI app, bound to the deployment that holds students.

`serve deploy` finds `build` by its import path; see `serve.deploy_config`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from serve.app import build_app
from serve.engines import Vocabulary
from serve.gateway import Ask, Gateway
from serve.settings import EndpointConfig, HostedModel, ServingSettings
from serve.students import DEPLOYMENT, student_class, students
from serve.work import Answer, Failure, Piece, Work
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError
from sftfilter.models import load_tokenizer

if TYPE_CHECKING:
    from ray.serve.deployment import Application, Deployment
    from ray.serve.handle import DeploymentHandle

_OVERLOADED = Failure(429, "too many requests are waiting", "overloaded", retry_after_s=5)
_LOST = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)


def checked_format(tokenizer_folder: str, system_prompt: str | None, models: Sequence[HostedModel]) -> ChatFormat:
    """The chat format of an endpoint.

    Raises:
        DataError: a model was trained with another one.
    """
    chat_format = ChatFormat(load_tokenizer(tokenizer_folder), system_prompt)
    for model in models:
        if model.format_hash != chat_format.hash:
            raise DataError(
                f"model '{model.id}' was trained with chat format {model.format_hash}, but the tokenizer in "
                f"'{tokenizer_folder}' with this system prompt gives {chat_format.hash}; serve it with the tokenizer, "
                "template and system prompt of its training"
            )
    return chat_format


def build(args: EndpointConfig | Mapping[str, Any]) -> Application:
    """The application of an endpoint. Serve hands the `args` of its config file here, as they stand there."""
    config = EndpointConfig.model_validate(args)
    chat_format = checked_format(config.tokenizer_folder, config.system_prompt, config.models)
    vocabulary = Vocabulary(chat_format.stop_id, chat_format.pad_id, config.tokenizer_folder)
    material = config.models, config.settings, vocabulary
    if config.settings.lone_replica:
        return _lone(config).bind(*material)
    limits = config.settings.ongoing_per_replica, config.settings.max_queued_requests
    held = students(
        student_class(config.settings), config.settings, max_ongoing_requests=limits[0], max_queued_requests=limits[1]
    )
    return _ingress(config).bind(held.bind(*material))


def _lone(config: EndpointConfig) -> Deployment:
    """One deployment that holds the students and answers HTTP: a hop less for every request."""

    @serve.ingress()
    class Lone(student_class(config.settings)):
        """Answers HTTP, and `Work` that comes over a handle."""

        def __serve_build_asgi_app__(self) -> FastAPI:  # called after the constructor
            return _app(config, Within(self, config.settings))

    # Its own limit is the one that answers 429, so Serve's lies above it.
    return students(Lone, config.settings, max_ongoing_requests=2 * _accepted(config.settings))


def _app(config: EndpointConfig, ask: Ask) -> FastAPI:
    chat_format = checked_format(config.tokenizer_folder, config.system_prompt, config.models)
    return build_app(Gateway(config.models, config.settings, chat_format, ask), config.key_digests)


def _accepted(settings: ServingSettings) -> int:
    """Requests that are being answered or wait, at most."""
    return settings.max_queued_requests + settings.max_replicas * settings.ongoing_per_replica


def _ingress(config: EndpointConfig) -> Deployment:
    """The deployment that answers HTTP."""

    def build_ingress() -> FastAPI:  # runs in the replica
        return _app(config, Through(serve.get_deployment_handle(DEPLOYMENT, app_name=config.name)))

    settings = config.settings
    return serve.deployment(
        name="Ingress",
        # The students' own limit is the one that answers 429, so this one lies above it.
        max_ongoing_requests=2 * _accepted(settings),
        ray_actor_options={"num_cpus": 0},
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=settings.drain_s,
    )(serve.ingress(build_ingress)())


class Through:
    """Asks the students over a Serve handle; what goes wrong on the way becomes a `Failure`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def whole(self, copy_id: str, work: Work) -> list[Answer] | Failure:
        """Whole answers."""
        response = self.handle.options(multiplexed_model_id=copy_id).generate.remote(work)
        try:
            return await response
        except asyncio.CancelledError:  # the client hung up, or the time is over: awaiting alone cancels nothing
            response.cancel()
            raise
        except (BackPressureError, *_LOST) as error:
            return _failure(error, work)

    async def pieces(self, copy_id: str, work: Work) -> AsyncIterator[list[Piece] | Failure]:
        """Pieces as they are made."""
        response: Any = self.handle.options(multiplexed_model_id=copy_id, stream=True).stream.remote(work)
        ended = False
        try:
            async for pieces in response:
                yield pieces
            ended = True
        except (BackPressureError, *_LOST) as error:
            ended = True
            yield _failure(error, work)
        finally:
            if not ended:
                response.cancel()


class Within:
    """Asks the students of this very replica."""

    def __init__(self, held: Any, settings: ServingSettings) -> None:
        self.held = held
        self.room = _accepted(settings)

    @contextmanager
    def _admitted(self) -> Iterator[bool]:
        """Whether there is room for one request more, which then takes it until the block ends."""
        admitted = self.room > 0
        self.room -= admitted
        try:
            yield admitted
        finally:
            self.room += admitted

    async def whole(self, copy_id: str, work: Work) -> list[Answer] | Failure:
        """Whole answers."""
        del copy_id  # whatever is asked for is here, or is loaded
        with self._admitted() as admitted:
            return await self.held.generate(work) if admitted else _OVERLOADED

    async def pieces(self, copy_id: str, work: Work) -> AsyncIterator[list[Piece] | Failure]:
        """Pieces as they are made."""
        del copy_id
        with self._admitted() as admitted:
            if not admitted:
                yield _OVERLOADED
                return
            async with aclosing(self.held.stream(work)) as made:
                async for pieces in made:
                    yield pieces


def _failure(error: Exception, work: Work) -> Failure:
    if isinstance(error, BackPressureError):
        return _OVERLOADED
    return Failure(503, f"the replica that holds '{work.model}' went away", "unavailable", retry_after_s=1)
