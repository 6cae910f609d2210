"""The HTTP side of the endpoint: a FastAPI application in a Ray Serve ingress deployment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from serve.gateway import Ask, Gateway
from serve.guard import Guard, error_response
from serve.protocol import ApiError, ChatRequest, CompletionRequest, events
from serve.settings import HostedModel, ServingSettings
from serve.students import DEPLOYMENT
from serve.work import Answer, Failure, Work
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError
from sftfilter.models import load_tokenizer

if TYPE_CHECKING:
    from ray.serve.deployment import Deployment
    from ray.serve.handle import DeploymentHandle

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class EndpointConfig:
    """Everything an ingress replica needs.

    Attributes:
        name: the Serve application.
        key_digest: digest of the bearer token; None serves without one.
    """

    name: str
    models: Sequence[HostedModel]
    settings: ServingSettings
    tokenizer_folder: str
    system_prompt: str | None
    key_digest: str | None


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


def ingress(config: EndpointConfig) -> Deployment:
    """The Serve deployment that answers HTTP; bind it to the bound students."""

    def build() -> FastAPI:  # runs in the replica
        chat_format = checked_format(config.tokenizer_folder, config.system_prompt, config.models)
        handle = serve.get_deployment_handle(DEPLOYMENT, app_name=config.name)
        return build_app(Gateway(config.models, config.settings, chat_format, through(handle)), config.key_digest)

    settings = config.settings
    return serve.deployment(
        name="Ingress",
        # The students' own limit is the one that answers 429, so this one lies above it.
        max_ongoing_requests=settings.max_queued_requests + 2 * settings.max_replicas * settings.ongoing_per_replica,
        ray_actor_options={"num_cpus": 0},
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=10,
    )(serve.ingress(build)())


def through(handle: DeploymentHandle) -> Ask:
    """Asks the students over a Serve handle; what goes wrong on the way becomes a `Failure`."""

    async def ask(model_id: str, work: Work) -> list[Answer] | Failure:
        response = handle.options(multiplexed_model_id=model_id).generate.remote(work)
        try:
            return await response
        except asyncio.CancelledError:  # the client hung up, or the time is over: awaiting alone cancels nothing
            response.cancel()
            raise
        except BackPressureError:
            return Failure(429, "too many requests are waiting", "overloaded", retry_after_s=5)
        except (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError):
            return Failure(503, f"the replica that holds '{model_id}' went away", "unavailable", retry_after_s=5)

    return ask


def build_app(gateway: Gateway, key_digest: str | None) -> FastAPI:
    """The FastAPI application around a gateway."""
    app = FastAPI(title="sftfilter students", docs_url=None, redoc_url=None)
    app.add_middleware(Guard, key_digest=key_digest)
    _add_routes(app, gateway)
    _add_error_handlers(app)
    return app


def _add_routes(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "sftfilter"} for name in gateway.models]
        return {"object": "list", "data": listed}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest) -> Response:
        return _respond(await gateway.chat(request), request)

    @app.post("/v1/completions", response_model=None)
    async def completions(request: CompletionRequest) -> Response:
        return _respond(await gateway.complete(request), request)


def _respond(reply: dict[str, Any], request: ChatRequest | CompletionRequest) -> Response:
    if request.stream:
        return StreamingResponse(events(reply, request.wants_usage_chunk), media_type="text/event-stream")
    return JSONResponse(reply)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        # Where and why, never the offending value: it may be a prompt.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        others = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
        return error_response(ApiError(400, f"{where or 'body'}: {first['msg']}{others}", param=where or None))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return error_response(ApiError(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("request failed with %s", type(error).__name__)  # without its text, which may quote a prompt
        return error_response(ApiError(500, "internal error", code="internal"))
