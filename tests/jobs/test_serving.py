"""`sftfilter serve RUN`: what a run writes down for it, the command itself, and the config for `serve deploy`."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from jobs.kinds.serve import Serve
from jobs.service import read_hosted
from jobs.serving import memory_budget_gib, write_config
from serve.guard import digest
from serve.settings import ServingSettings
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError
from sftfilter.models import ensure_builtin, load_tokenizer
from tests.serve.tiny import make_students

SYSTEM = "Be brief."
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a run whose students lie in it."""
    root = tmp_path_factory.mktemp("runs")
    chat = ChatFormat(load_tokenizer(str(ensure_builtin())), SYSTEM)
    tiny = make_students(root / "artifacts", chat)
    base = tiny.lora[0].folder
    chat.tokenizer.save_pretrained(base)
    events = []
    for model in [*tiny.full, *tiny.lora[1:]]:
        meta = {"model_hash": model.model_hash, "format_hash": model.format_hash}
        if model.adapter:
            meta["base_hash"] = model.adapter.base_hash
        (Path(model.folder) / "artifact.json").write_text(json.dumps(meta))
        events.append(
            {
                "time": "2026-11-01T00:00:00+00:00",
                "run": "0a",
                "event": "artifact",
                "artifact": "student",
                "of": model.id,
                "path": model.folder,
            }
        )
    (root / "small").mkdir()
    (root / "small" / "stages.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    arms = {"base": {}, "full": {"teacher": "T"}}
    spec = {"base_model": base, "system_prompt": SYSTEM, "arms": arms, "serving": {"max_batch": 16}}
    (root / "small" / "results.json").write_text(json.dumps({"spec": spec, "format_hash": chat.hash}))
    return root


def test_students_share_the_base_they_were_trained_on(root: Path) -> None:
    hosted = read_hosted(root / "small", [])
    models = {model.id: model for model in hosted.models}
    assert list(models) == ["base", "full-0", "full-1", "lora-0", "lora-1", "lora-2"]
    assert models["full-0"].adapter is None
    assert len({models[name].copy_id for name in ("base", "lora-0", "lora-1", "lora-2")}) == 1
    assert hosted.system_prompt == SYSTEM and hosted.serving == {"max_batch": 16}
    assert [model.id for model in read_hosted(root / "small", ["lora-1", "full-0"]).models] == ["lora-1", "full-0"]


def test_what_cannot_be_served_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"no student 'full-9'; trained: full-0"):
        read_hosted(root / "small", ["full-9"])
    with pytest.raises(DataError, match=r"smal: no such run, did you mean 'small'"):
        read_hosted(root / "smal", [])
    (root / "begun").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="has not finished"):
        read_hosted(root / "begun", [])


def test_the_memory_budget_counts_copies_adapters_and_caches(root: Path) -> None:
    models = read_hosted(root / "small", []).models
    one, two = (
        memory_budget_gib(models, ServingSettings(models_in_memory=n, cache_gib=1.0, dtype="bfloat16")) for n in (1, 2)
    )
    assert 1.0 < two - one < 1.1
    apart = memory_budget_gib(models, ServingSettings(models_in_memory=50, cache_gib=1.0, share_base=False))
    assert apart > 6  # six checkpoints, where the base of four of them was one


def test_the_config_is_one_that_serve_deploy_takes(root: Path, tmp_path: Path) -> None:
    spec = Serve(kind="serve", name="small", results=str(root))
    token = write_config(spec, root, tmp_path / "out.yaml")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    text = (tmp_path / "out.yaml").read_text()
    key = token.read_text().strip()
    assert key not in text and digest(key) in text
    schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert schema.http_options.host == "127.0.0.1"
    assert schema.applications[0].import_path == "serve.deployments:build"


@pytest.mark.ray
def test_serve_deploy_runs_it(root: Path, tmp_path: Path, local_ray: None) -> None:
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.context import _get_global_client

    spec = Serve(kind="serve", name="small", results=str(root), serving=ServingSettings(port=18471, dtype="float32"))
    token = write_config(spec, root, tmp_path / "out.yaml")
    schema = ServeDeploySchema.model_validate(yaml.safe_load((tmp_path / "out.yaml").read_text()))
    serve_start(http_options=schema.http_options.model_dump(), proxy_location=schema.proxy_location)
    client: Any = _get_global_client()
    client.deploy_apps(schema, _blocking=True)
    try:
        answer("http://127.0.0.1:18471/small/v1", token.read_text().strip(), "lora-0")
    finally:
        serve.shutdown()


def answer(base_url: str, key: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.post(f"{base_url}/chat/completions", json=body, timeout=60).status_code == 401
    reply = httpx.post(f"{base_url}/chat/completions", json=body, headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@pytest.mark.ray
def test_the_command_serves_until_it_is_stopped_and_leaves_no_token_behind(root: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "serve", str(root / "small"), "--port", "0"]
    command += ["--set", "serving.dtype=float32", "--model", "full-1", "--model", "lora-2"]
    env = {k: v for k, v in os.environ.items() if k != "SFTFILTER_API_KEY"}
    token = root / "small" / "endpoint.token"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            said = ""
            while "Ctrl-C" not in said:
                line = process.stderr.readline() if process.stderr else ""
                assert line, said
                said += line
            assert stat.S_IMODE(token.stat().st_mode) == 0o600 and token.read_text().strip() not in said
            answer(re.findall(r"http://\S+", said)[0], token.read_text().strip(), "lora-2")
            assert "full-1" in said and "full-0" not in said
        finally:
            process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(60) == 0
    assert time.monotonic() - began < 60 and not token.exists()
