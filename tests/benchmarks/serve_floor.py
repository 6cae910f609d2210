"""The least that Ray Serve itself takes: one deployment that parses JSON and answers a constant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

_NAME = "floor"
_REPLY = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@contextmanager
def floor(route: str) -> Iterator[None]:
    """Host it on the running proxy until the block ends, so that nothing of it runs beside what is measured next."""

    def build() -> FastAPI:
        app = FastAPI()

        async def chat(request: Request) -> JSONResponse:
            await request.json()
            return JSONResponse(_REPLY)

        app.add_route("/chat/completions", chat, methods=["POST"])
        return app

    serve.run(
        serve.deployment(name="Floor", ray_actor_options={"num_cpus": 0})(serve.ingress(build)()).bind(),
        name=_NAME,
        route_prefix=route,
    )
    try:
        yield
    finally:
        serve.delete(_NAME)
