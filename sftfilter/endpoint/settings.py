"""Where an endpoint is and how it is spoken to. A secret is named by its variable or file, never held."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from sftfilter.config import Settings, stable_hash
from sftfilter.private import literal_secrets

Sampling = Literal["temperature", "top_p", "max_tokens", "seed"]
"""Fields of a request that say how an answer is drawn."""


class Endpoint(Settings):
    """An OpenAI-compatible chat endpoint.

    Attributes:
        concurrency: requests in flight from one actor.
        requests_per_minute, tokens_per_minute: counted over all actors; tokens are those asked and those answered.
        retries: further attempts after 408, 409, 429, 5xx, a time-out, a broken connection or a body that is no answer.
        give_up_after: so many requests in a row without an answer, all their attempts used, stop the run.
        extra_body: further fields of each request, as the server names them.
        omit: fields that the server refuses; they are not sent, and answers record them as unknown.
        identity: stands in for the URL where answers are kept; give it one where the URL changes but the model does not.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: Annotated[str, Field(description="such as https://host/v1")]
    model: Annotated[str, Field(min_length=1)]
    api_key_env: Annotated[str | None, Field(description="the environment variable that holds the key")] = None
    api_key_file: Annotated[
        str | None,
        Field(description="or the file that holds it, on every node: a mounted secret, readable by its owner"),
    ] = None
    timeout_s: Annotated[float, Field(gt=0, description="for one attempt, all of it")] = 120
    retries: Annotated[int, Field(ge=0)] = 5
    concurrency: Annotated[int, Field(gt=0)] = 16
    requests_per_minute: Annotated[float | None, Field(gt=0)] = None
    tokens_per_minute: Annotated[float | None, Field(gt=0)] = None
    give_up_after: Annotated[int, Field(gt=0)] = 20
    longest_wait_s: Annotated[float, Field(gt=0, description="a longer Retry-After stops the run")] = 300
    allow_plain_http: Annotated[bool, Field(description="send the key in the clear to another machine")] = False
    extra_body: dict[str, Any] = Field(default={})
    omit: list[Sampling] = Field(default=[])
    identity: str | None = None

    @field_validator("base_url")
    @classmethod
    def _url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            named = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:
            named = False
            parts = urlsplit("")
        if not named:
            raise ValueError("needs a URL such as https://host/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "holds credentials, a query or a fragment; name the key's variable in `api_key_env` instead"
            )
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, name: str | None) -> str | None:
        if name is not None and not (name.isascii() and name.replace("_", "A").isalnum() and name == name.upper()):
            raise ValueError("names an environment variable in capitals, such as JUDGE_API_KEY; it never holds the key")
        return name

    @field_validator("api_key_file")
    @classmethod
    def _outside_of_uploads(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).expanduser().is_absolute():
            raise ValueError("names a file by its whole path (or ~/...): one beside the spec would be uploaded with it")
        return path

    @field_validator("extra_body")
    @classmethod
    def _no_literal_secret(cls, body: dict[str, Any]) -> dict[str, Any]:
        if found := literal_secrets(body):
            raise ValueError(f"'{found[0]}' looks like a secret written out: use `api_key_env` or `api_key_file`")
        return body

    @model_validator(mode="after")
    def _key_stays_private(self) -> Endpoint:
        if self.api_key_env and self.api_key_file:
            raise ValueError("set api_key_env or api_key_file, not both")
        parts = urlsplit(self.base_url)
        if (self.api_key_env or self.api_key_file) and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            if self.allow_plain_http:
                return self
            raise ValueError(
                f"http://{parts.hostname} would get the key in the clear: use https, or set `allow_plain_http: true` "
                "on a network you trust"
            )
        return self

    @property
    def answers_hash(self) -> str:
        """Changes with what answers; speed, patience and secrets do not count."""
        return stable_hash([self.identity or self.base_url, self.model, self.extra_body, sorted(self.omit)])


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, which no other reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
