"""Endpoint settings: secrets are named, never held, and never sent in the clear by accident."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sftfilter.endpoint.settings import Endpoint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "http://example.org/v1", "api_key_env": "KEY"}, "in the clear"),
        ({"api_key_env": "sk-abc123"}, "never holds the key"),
        ({"api_key_env": "abc123"}, "never holds the key"),
        ({"base_url": "https://user:word@host/v1"}, "holds credentials"),
        ({"base_url": "https://host/v1?key=abc"}, "holds credentials"),
        ({"base_url": "host/v1"}, "needs a URL"),
        ({"base_url": "http://[::1"}, "needs a URL"),
        ({"omit": ["messages"]}, "should be 'temperature', 'top_p', 'max_tokens' or 'seed'"),
        ({"concurency": 3}, "did you mean 'concurrency'"),
    ],
)
def test_unsafe_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Endpoint.model_validate({"base_url": "https://host/v1", "model": "m"} | changes)


@pytest.mark.parametrize(
    "name", ["api_key", "apiKey", "X-API-Key", "Authorization", "token", "hf_token", "aws_secret_access_key"]
)
def test_no_key_among_the_further_fields(name: str) -> None:
    with pytest.raises(ValidationError, match=f"extra_body(?s:.*)route.0.{name}' looks like a secret") as refused:
        Endpoint(base_url="https://host/v1", model="m", extra_body={"top_k": 1, "route": [{name: "hunter2"}]})
    assert "hunter2" not in str(refused.value)


def test_fields_that_only_sound_like_keys_are_sent() -> None:
    body = {"max_completion_tokens": 5, "stop_token_ids": [1], "prompt_cache_key": "x", "skip_special_tokens": True}
    body |= {"chat_template_kwargs": {"enable_thinking": False}, "bad_words_token_ids": []}
    assert Endpoint(base_url="https://host/v1", model="m", extra_body=body).extra_body == body


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:80/v1", "https://host"]
)
def test_a_key_may_go_to_this_machine_or_over_tls(url: str) -> None:
    assert Endpoint(base_url=url + "/", model="m", api_key_env="KEY").base_url == url


def test_only_what_answers_counts_in_the_hash() -> None:
    first = Endpoint(base_url="https://host/v1", model="m")
    same = first.model_copy(update={"concurrency": 3, "api_key_env": "KEY", "retries": 0, "timeout_s": 1})
    assert same.answers_hash == first.answers_hash
    for changed in ({"model": "n"}, {"base_url": "https://other/v1"}, {"extra_body": {"top_k": 1}}, {"omit": ["seed"]}):
        assert first.model_copy(update=changed).answers_hash != first.answers_hash
    named = first.model_copy(update={"identity": "judge", "base_url": "https://other/v1"})
    assert named.answers_hash == first.model_copy(update={"identity": "judge"}).answers_hash
