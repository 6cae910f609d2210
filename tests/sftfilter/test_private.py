"""Secrets: read only from private files, blotted out of texts, refused where they are written out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from sftfilter import private
from sftfilter.config import Name, Settings
from sftfilter.endpoint.client import ChatClient
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import MachineError
from sftfilter.generating import VllmTeacher
from sftfilter.private import literal_secrets, read_private_file, redact, remember_named

ENDPOINT = {"base_url": "https://host/v1", "model": "m"}


def test_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    with pytest.raises(MachineError, match=r"judge: .*key: No such file"):
        read_private_file(file, "judge")
    file.write_text(" sk-secret\n")
    file.chmod(0o600)
    assert read_private_file(file, "judge") == "sk-secret"
    file.chmod(0o604)
    with pytest.raises(MachineError, match="chmod 600") as error:
        read_private_file(file, "judge")
    assert "sk-secret" not in str(error.value)
    if os.getuid() == 0:  # as Kubernetes mounts it: root's, opened to the pod's group
        file.chmod(0o440)
        assert read_private_file(file, "judge") == "sk-secret"
    file.chmod(0o600)
    file.write_text("\n")
    with pytest.raises(MachineError, match="is empty"):
        read_private_file(file, "judge")


def test_an_endpoint_reads_its_key_from_a_file(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("sk-from-a-file")
    endpoint = Endpoint.model_validate(ENDPOINT | {"api_key_file": str(key)})
    assert ChatClient(endpoint).openai.api_key == "sk-from-a-file"
    assert endpoint.answers_hash == Endpoint.model_validate(ENDPOINT).answers_hash


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"api_key_file": "keys/judge"}, "would be uploaded"),
        ({"api_key_file": "/k", "api_key_env": "KEY"}, "not both"),
        ({"api_key_file": "/k", "base_url": "http://host/v1"}, "in the clear"),
        ({"extra_body": {"headers": {"Authorization": "Bearer x"}}}, "headers.Authorization"),
        ({"extra_body": {"api_key": "sk-1"}}, "looks like a secret"),
        ({"api_key": "sk-1"}, "did you mean 'api_key_env'"),
    ],
)
def test_settings_that_would_give_a_key_away(fields: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Endpoint.model_validate(ENDPOINT | fields)


def test_vllm_arguments_hold_no_token() -> None:
    with pytest.raises(ValidationError, match="set HF_TOKEN on the nodes"):
        VllmTeacher.model_validate({"kind": "vllm", "model": "m", "engine": {"hf_token": "hf_abc"}})


def test_what_looks_like_a_secret() -> None:
    assert literal_secrets({"max_tokens": 3, "tokens": "x", "stop_token_ids": [1], "password": ""}) == []
    assert literal_secrets({"a": {"auth-token": "x"}, "APIKEY": "y"}) == ["a.auth-token", "APIKEY"]


def test_values_of_variables_named_like_secrets_are_blotted_out() -> None:
    env = {"JUDGE_API_KEY": "sk-0123456789", "HOME": "/home/somebody", "MY_TOKEN": "short"}
    assert redact("sk-0123456789 short /home/somebody", env) == "[JUDGE_API_KEY] short /home/somebody"


def test_numbered_variables_are_secrets_and_paths_of_tokens_are_none() -> None:
    env = {"OPENAI_API_KEY_2": "sk-0123456789ab", "API_KEYS": "k1-012345678,k2", "TOKEN_FILE": "/home/me/the-token"}
    assert redact(" ".join(env.values()), env) == "[OPENAI_API_KEY_2] [API_KEYS] /home/me/the-token"


def test_what_a_spec_names_is_blotted_out_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "_remembered", {})
    key = tmp_path / "judge"
    key.write_text("in-a-file-0123456\n")
    monkeypatch.setenv("WHERE_IT_IS", "in-a-variable-0123")
    judges = [{"endpoint": {"api_key_env": "WHERE_IT_IS"}}, {"api_key_file": str(tmp_path / "none")}]
    remember_named(
        {"scorers": {"a": {"judges": judges}, "b": {"api_key_file": str(key)}}, "judge_api_key_env": "UNSET"}
    )
    assert redact("in-a-variable-0123 in-a-file-0123456") == "[WHERE_IT_IS] [judge]"


def test_what_an_endpoint_reads_is_blotted_out_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_remembered", {})
    monkeypatch.setenv("NOBODYS_GUESS", "in-a-variable-0123")
    assert redact("in-a-variable-0123") == "in-a-variable-0123"
    ChatClient(Endpoint.model_validate(ENDPOINT | {"api_key_env": "NOBODYS_GUESS"}))
    assert redact("in-a-variable-0123") == "[NOBODYS_GUESS]"


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".hidden", "", " ", "x\n", "a\0", "x" * 101])
def test_names_are_never_paths(name: str) -> None:
    class Named(Settings):
        by: dict[Name, int]

    assert Named(by={"all-T (v2)": 1})
    with pytest.raises(ValidationError, match="is not a name"):
        Named.model_validate({"by": {name: 1}})
