"""The HTTP side of the endpoint: a FastAPI application around a gateway."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.docs_page import docs_page
from serve.gateway import Gateway, Job
from serve.guard import Guard, error_response
from serve.metrics import Metrics
from serve.protocol import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    ErrorReply,
    TokenizeRequest,
)

log = logging.getLogger("ray.serve")

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The request is wrong; `param` names the field."},
    401: {"model": ErrorReply, "description": "No valid bearer token."},
    404: {"model": ErrorReply, "description": "No such model; the message names those there are."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    422: {"model": ErrorReply, "description": "Never sent: what is wrong is a 400."},
    429: {"model": ErrorReply, "description": "Too many requests; `Retry-After` says how long to wait."},
    500: {"model": ErrorReply, "description": "The model's checkpoint is broken, or computing failed."},
    503: {"model": ErrorReply, "description": "A replica went away; ask again."},
    504: {"model": ErrorReply, "description": "No answer in time."},
}


def build_app(gateway: Gateway, key_digests: list[str]) -> FastAPI:
    """The FastAPI application around a gateway."""
    app = FastAPI(
        title="sftfilter students",
        version="1",
        description="OpenAI's API over the students of an experiment. The reply's `system_fingerprint` is the hash of "
        "the checkpoint that answered.",
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    metrics = Metrics()
    settings = gateway.settings
    app.add_middleware(
        Guard,
        key_digests=key_digests,
        per_minute=settings.requests_per_minute,
        body_timeout_s=settings.body_timeout_s,
    )
    app.add_middleware(_Counted, metrics=metrics)
    _add_answers(app, gateway, metrics)
    _add_tokenizer(app, gateway)
    _add_pages(app, gateway, metrics)
    _add_error_handlers(app)
    return app


def _add_answers(app: FastAPI, gateway: Gateway, metrics: Metrics) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest) -> Response:
        """Answer a conversation."""
        return await _respond(gateway, gateway.chat_job(request), bool(request.stream), metrics)

    @app.post("/v1/completions", response_model=None)
    async def completions(request: CompletionRequest) -> Response:
        """Continue texts or token ids, or score them: `max_tokens` 0 with `echo` and `logprobs`."""
        return await _respond(gateway, gateway.completion_job(request), bool(request.stream), metrics)


async def _respond(gateway: Gateway, job: Job, stream: bool, metrics: Metrics) -> Response:
    if not stream:
        reply = await gateway.answer(job)
        metrics.count_tokens(job.model.id, reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"])
        return JSONResponse(reply)
    began = time.monotonic()
    events = gateway.stream(job)
    first = await anext(events)  # what fails before it is an ordinary error
    metrics.first.observe(time.monotonic() - began)
    return StreamingResponse(
        _after(first, events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


async def _after(first: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    try:
        yield first
        async for event in events:
            yield event
    finally:  # a client that left ends the work
        await events.aclose()  # pyright: ignore[reportAttributeAccessIssue]


def _add_tokenizer(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/tokenize")
    @app.post("/v1/tokenize", include_in_schema=False)
    async def tokenize(request: TokenizeRequest) -> dict[str, Any]:
        """Token ids of a prompt, or of messages as the chat template renders them."""
        return gateway.tokenize(request)

    @app.post("/detokenize")
    @app.post("/v1/detokenize", include_in_schema=False)
    async def detokenize(request: DetokenizeRequest) -> dict[str, Any]:
        """Text of token ids."""
        return gateway.detokenize(request)

    @app.get("/tokenizer_info")
    @app.get("/v1/tokenizer_info", include_in_schema=False)
    async def tokenizer_info() -> dict[str, Any]:
        """Special tokens and chat template."""
        return gateway.tokenizer_info()


def _add_pages(app: FastAPI, gateway: Gateway, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the endpoint answers; needs no token."""
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models by the ids to ask for them."""
        return {"object": "list", "data": [_listed(gateway, name) for name in gateway.models]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        """One model."""
        gateway.check_model(model)
        return _listed(gateway, model)

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Counts in Prometheus' text format."""
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    page = docs_page(app.openapi())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page)


def _listed(gateway: Gateway, name: str) -> dict[str, Any]:
    model = gateway.models[name]
    fixed = {"id": name, "object": "model", "created": 0, "owned_by": "sftfilter"}
    return fixed | {"model_hash": model.model_hash, "max_model_len": gateway.context(name)}


class _Counted:
    """Counts every request by its route and status, refused ones too; answers what nobody expected with a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        route = path if path in _ROUTES else "other"
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        with self.metrics.request(route):
            try:
                await self.app(scope, receive, counted)
            except Exception as error:  # raised on, it would be logged with its text, which may quote a prompt
                log.error("request failed with %s", type(error).__name__)
                if not started:
                    failed = error_response(ApiError(500, "internal error", code="internal"))
                    await failed(scope, receive, counted)


_ROUTES = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/detokenize", "/tokenizer_info", "/health"}
    | {"/metrics", "/docs", "/openapi.json"}
)


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
