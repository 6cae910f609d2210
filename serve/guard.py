"""ASGI middleware in front of the API: bearer token and body size, both decided before anything is parsed."""

from __future__ import annotations

import hashlib
import hmac

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.protocol import ApiError

MAX_BODY_BYTES = 4 * 1024 * 1024


def digest(api_key: str) -> str:
    """What replicas are given in place of the token, so that the cluster never stores the token itself."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def error_response(error: ApiError) -> JSONResponse:
    """An error as OpenAI's clients expect it."""
    return JSONResponse(error.body(), error.status, error.headers())


class Guard:
    """Lets `/health` through, and whatever carries the token in at most 4 MiB.

    Args:
        key_digest: `digest` of the token; None asks for no token.
    """

    def __init__(self, app: ASGIApp, key_digest: str | None) -> None:
        self.app = app
        self.key_digest = key_digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path == "/health":
            await self.app(scope, receive, send)
            return
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check_token(headers.get(b"authorization", b""))
            body = await _read(headers.get(b"content-length", b"0"), receive)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        await self.app(scope, _Replay(body, receive), send)

    def _check_token(self, header: bytes) -> None:
        if self.key_digest is None:
            return
        kind, _, token = header.decode("latin-1").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(digest(token.strip()), self.key_digest):
            raise ApiError(401, "missing or wrong bearer token in the Authorization header", code="invalid_api_key")


class _Replay:
    """Hands a body that was already read to the application, then what the connection says (that it closed)."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _read(announced: bytes, receive: Receive) -> bytes:
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
        if sum(map(len, parts)) > MAX_BODY_BYTES:
            raise _too_large()
    return b"".join(parts)


def _too_large() -> ApiError:
    return ApiError(413, f"the request body is over {MAX_BODY_BYTES // 2**20} MiB", code="body_too_large")
