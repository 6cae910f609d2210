"""A real HTTP server on loopback that speaks the chat API as its script says, well or badly, and counts what is asked."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[["_Handler"], None]


@dataclass
class Scripted:
    """The server's address and what came in, in order."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def scripted(script: Callable[[dict[str, Any], int], Act]) -> Iterator[Scripted]:
    """Serve until the block ends.

    Args:
        script: from a request's body and how often the very same body came before, to what is done with it.
    """
    state = Scripted()
    handler = type("Handler", (_Handler,), {"state": state, "script": staticmethod(script)})
    server = _Server(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def say(
    text: str | None, model: str = "scripted-1", fingerprint: str | None = "fp-1", after: float = 0, ended: str = "stop"
) -> Act:
    """A proper answer, or one that was cut."""

    def act(handler: _Handler) -> None:
        time.sleep(after)
        body = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "system_fingerprint": fingerprint,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended},
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
        handler.send(200, json.dumps(body).encode())

    return act


def status(code: int, message: str = "no", headers: Mapping[str, str] | None = None, kind: str | None = None) -> Act:
    """An error as OpenAI words it."""
    body = json.dumps({"error": {"message": message, "code": kind}}).encode()
    return lambda handler: handler.send(code, body, headers)


def raw(body: bytes, content_type: str = "application/json") -> Act:
    """Any bytes with status 200."""
    return lambda handler: handler.send(200, body, {"Content-Type": content_type})


def html() -> Act:
    """What a proxy sends."""
    return raw(b"<html><body>Please log in</body></html>", "text/html")


def half() -> Act:
    """A body that ends in the middle, with a length that says so."""
    return raw(b'{"choices": [{"message": {"content": "SCORE')


def drop() -> Act:
    """The connection closes in the middle of the body."""

    def act(handler: _Handler) -> None:
        handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"cho')
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True

    return act


def drip(seconds: float) -> Act:
    """A byte now and then: no single read ever times out."""

    def act(handler: _Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n")
        for _ in range(int(seconds / 0.1)):
            handler.wfile.write(b" ")
            time.sleep(0.1)
        handler.close_connection = True

    return act


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Scripted
    script: Callable[[dict[str, Any], int], Act]

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            before = sum(body == other for other in state.requests)
            state.requests.append(body)
            state.keys.append(self.headers.get("Authorization", ""))
            state.times.append(time.monotonic())
            state.in_flight += 1
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
        try:
            type(self).script(body, before)(self)
        finally:
            with state.lock:
                state.in_flight -= 1

    def send(self, code: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in ({"Content-Type": "application/json"} | dict(headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""
