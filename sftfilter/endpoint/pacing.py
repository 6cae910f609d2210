"""How fast an endpoint is asked: limits a minute, counted over all actors of a job, and growing pauses after failures."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from collections.abc import Mapping
from typing import Any, Protocol

from sftfilter.config import stable_hash
from sftfilter.endpoint.settings import Endpoint

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class Turns:
    """Hands out starting times, evenly spaced: no burst ever exceeds what a minute allows."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = self._next_token = -math.inf

    def take(self, tokens: float, now: float | None = None) -> float:
        """Seconds to wait before a request that may cost so many tokens.

        Args:
            now: seconds on any clock that only goes forward; default: this process's own.
        """
        now = time.monotonic() if now is None else now
        start = max(now, self._next_request, self._next_token)
        if self._request_s:
            self._next_request = start + self._request_s
        if self._token_s:
            self._next_token = start + tokens * self._token_s
        return start - now

    def give_back(self, tokens: float) -> None:
        """So many of the tokens taken were not used."""
        self._next_token -= tokens * self._token_s


class Pace(Protocol):
    """Waits for a turn."""

    async def wait(self, tokens: float) -> None: ...
    async def give_back(self, tokens: float) -> None: ...


class NoPace:
    """An endpoint without limits."""

    async def wait(self, tokens: float) -> None:
        """At once."""

    async def give_back(self, tokens: float) -> None:
        """Nothing was taken."""


class OwnPace:
    """Limits counted in this process alone."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    async def wait(self, tokens: float) -> None:
        """Until this request's turn."""
        await asyncio.sleep(self._turns.take(tokens))

    async def give_back(self, tokens: float) -> None:
        """Tokens that were not used."""
        self._turns.give_back(tokens)


class SharedPace:
    """Limits counted by one small Ray actor for all processes of the job that ask the same endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._limits = (endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._name = f"sftfilter-pace-{stable_hash([endpoint.base_url, endpoint.model, *self._limits])}"
        self._actor: Any = None

    async def wait(self, tokens: float) -> None:
        """Until this request's turn."""
        await asyncio.sleep(await self._call("take", tokens))

    async def give_back(self, tokens: float) -> None:
        """Tokens that were not used."""
        await self._call("give_back", tokens)

    async def _call(self, method: str, tokens: float) -> Any:
        import ray
        import ray.exceptions

        for _ in range(5):
            if self._actor is None:
                options = {"name": self._name, "get_if_exists": True, "num_cpus": 0}
                self._actor = ray.remote(Turns).options(**options).remote(*self._limits)  # pyright: ignore[reportAttributeAccessIssue]
            try:
                return await getattr(self._actor, method).remote(tokens)
            except (
                ray.exceptions.RayActorError
            ):  # it ends with the process that started it; the next one starts another
                self._actor = None
                await asyncio.sleep(0.2)
        raise RuntimeError(f"the actor {self._name}, which counts requests, cannot be started")


def pace_of(endpoint: Endpoint) -> Pace:
    """The endpoint's pace: shared inside a Ray job, this process's own elsewhere."""
    if endpoint.requests_per_minute is None and endpoint.tokens_per_minute is None:
        return NoPace()
    import ray

    if ray.is_initialized():
        return SharedPace(endpoint)
    return OwnPace(Turns(endpoint.requests_per_minute, endpoint.tokens_per_minute))


def pause(attempt: int) -> float:
    """Seconds before the next attempt: doubling, and between half and all of it, so that clients do not come as one."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**attempt) * random.uniform(0.5, 1)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, section 10.2.3: seconds or a date), or None."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
