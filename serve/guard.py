"""ASGI middleware in front of the API: bearer token, rate and body, all decided before anything is parsed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.protocol import ApiError

MAX_BODY_BYTES = 4 * 1024 * 1024
OPEN_PATHS = frozenset({"/health", "/docs", "/openapi.json"})
"""What anybody may read: these pages are the same for every endpoint."""


def digest(api_key: str) -> str:
    """What replicas are given in place of the token, so that the cluster never stores the token itself."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def error_response(error: ApiError) -> JSONResponse:
    """An error as OpenAI's clients expect it."""
    return JSONResponse(error.body(), error.status, error.headers())


class Guard:
    """Lets through what carries a token, in at most 4 MiB, sent in time, and not too often.

    Args:
        key_digests: `digest` of every token; none asks for no token.
        per_minute: requests that each token may make; a minute's worth may come at once.
        body_timeout_s: for the whole body to arrive.
    """

    def __init__(
        self,
        app: ASGIApp,
        key_digests: Sequence[str] = (),
        per_minute: int | None = None,
        body_timeout_s: float = 30,
    ) -> None:
        self.app = app
        self.key_digests = list(key_digests)
        self.body_timeout_s = body_timeout_s
        self._buckets = {key: _Bucket(per_minute) for key in [*self.key_digests, ""]} if per_minute else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            key = self._checked_key(headers.get(b"authorization", b""))
            if key in self._buckets:
                self._buckets[key].take()
            async with asyncio.timeout(self.body_timeout_s):
                body = await _read(headers.get(b"content-length", b"0"), receive)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        except TimeoutError:
            late = ApiError(408, f"the request did not arrive within {self.body_timeout_s:g} s", code="body_timeout")
            await error_response(late)(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _Replay(body, receive), send)

    def _checked_key(self, header: bytes) -> str:
        """Digest of the token that was sent; empty where none is asked for."""
        if not self.key_digests:
            return ""
        kind, _, token = header.decode("latin-1").partition(" ")
        sent = digest(token.strip())
        # All are compared, each in constant time, so that time tells nothing about which came close.
        known = [key for key in self.key_digests if hmac.compare_digest(sent, key)]
        if kind.lower() != "bearer" or not known:
            raise ApiError(401, "missing or wrong bearer token in the Authorization header", code="invalid_api_key")
        return known[0]


class _Bucket:
    """Requests that a token may still make now; filled up at an even pace."""

    def __init__(self, per_minute: int) -> None:
        self.size = float(per_minute)
        self.left = self.size
        self.since = time.monotonic()

    def take(self) -> None:
        now = time.monotonic()
        self.left = min(self.size, self.left + (now - self.since) * self.size / 60)
        self.since = now
        if self.left < 1:
            wait = (1 - self.left) * 60 / self.size
            said = f"this token may make {self.size:g} requests a minute"
            raise ApiError(429, said, code="rate_limit_exceeded", retry_after_s=wait)
        self.left -= 1


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


async def _read(announced: bytes, receive: Receive) -> bytes | None:
    """The whole body; None where the client left before it was sent."""
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
        if sum(map(len, parts)) > MAX_BODY_BYTES:
            raise _too_large()
    return b"".join(parts)


def _too_large() -> ApiError:
    return ApiError(413, f"the request body is over {MAX_BODY_BYTES // 2**20} MiB", code="body_too_large")
