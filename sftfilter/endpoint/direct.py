"""Asking an endpoint on this machine, or one that we host, without the proxy that the environment names for all others.

Its key and the prompts are no business of a proxy, which for an address such as 127.0.0.1 would ask its own machine besides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from sftfilter.endpoint.settings import is_loopback

_NAMES = ("no_proxy", "NO_PROXY")  # programs read either; where both are set, most take the first


def on_this_machine(base_url: str) -> bool:
    """Whether a URL's host is a loopback address."""
    return is_loopback(_host(base_url))


def direct_mounts(base_url: str) -> dict[str, None]:
    """`mounts` of an httpx client that asks this URL's host directly; others as the environment says."""
    host = _host(base_url)
    return {f"all://[{host}]" if ":" in host else f"all://{host}": None}


@contextmanager
def around_proxies(base_url: str) -> Iterator[None]:
    """Have the environment say so too, for clients that are not ours, until the block ends."""
    before = {name: os.environ.get(name) for name in _NAMES}
    known = next((value for value in before.values() if value is not None), "")
    os.environ.update(dict.fromkeys(_NAMES, ",".join(filter(None, (known, _host(base_url))))))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _host(base_url: str) -> str:
    return urlsplit(base_url).hostname or ""
