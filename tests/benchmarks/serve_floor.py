"""The least that Ray Serve itself takes: an ingress that parses JSON and asks a second deployment, which answers a constant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

_NAME = "floor"
_REPLY = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@serve.deployment(ray_actor_options={"num_cpus": 0})
class _Answer:
    async def generate(self, asked: int) -> int:
        return asked


class _Ingress:
    def __init__(self, held: Any) -> None:
        self.held = held


@contextmanager
def floor(route: str) -> Iterator[None]:
    """Host it on the running proxy until the block ends, so that nothing of it runs beside what is measured next."""

    def build() -> FastAPI:
        app = FastAPI()
        handle = serve.get_deployment_handle("_Answer", app_name=_NAME)

        async def chat(request: Request) -> JSONResponse:
            await handle.generate.remote(len(await request.json()))
            return JSONResponse(_REPLY)

        app.add_route("/chat/completions", chat, methods=["POST"])
        return app

    ingress = serve.deployment(name="Ingress", ray_actor_options={"num_cpus": 0})(serve.ingress(build)(_Ingress))
    serve.run(ingress.bind(_Answer.bind()), name=_NAME, route_prefix=route)
    try:
        yield
    finally:
        serve.delete(_NAME)
