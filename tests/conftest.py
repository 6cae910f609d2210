"""Shared fixtures: Ray clusters of our own, and small experiments written to temporary folders."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser import BROWSER, Browser

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray's workers would run at nice 15, starved by whatever test runs beside them in the other pytest worker.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray reads these once, when it is first imported.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

REPOSITORY = Path(__file__).parent.parent
PROMPT_FILES = REPOSITORY / "jobs" / "specs" / "prompts"


def pytest_configure() -> None:
    """Threads that wait for each other by spinning take the cores from the test beside them. Benchmarks, which import
    this module and run alone, shall spin as users' runs do."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture
def local_ray() -> Iterator[None]:
    """A small Ray in this process, with its own temp folder."""
    from cluster.local import local_ray
    from jobs.run import worker_env

    with local_ray(worker_env(), cpus=2):
        yield


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary folder with a short name, as Unix sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def read_lines(name: str, count: int, kind: str | None = None) -> list[dict[str, Any]]:
    """The first lines of a shipped prompt file, of one kind."""
    rows = [json.loads(line) for line in (PROMPT_FILES / name).read_text().splitlines()]
    return [row for row in rows if kind is None or row["kind"] == kind][:count]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tiny_spec(folder: Path, **changes: Any) -> Path:
    """A spec whose teachers bring their answers: 12 prompts, 3 trained arms, one optimizer step or two each."""
    prompts = read_lines("teacher_doubt.jsonl", 12)
    write_lines(folder / "train.jsonl", [{"prompt": r["prompt"], "kind": r["kind"]} for r in prompts])
    for teacher, name in (("T", "teacher_doubt.jsonl"), ("C", "teacher_accept.jsonl")):
        write_lines(folder / f"{teacher}.jsonl", read_lines(name, 12))
    held = [row for kind in ("date", "adjacent", "control") for row in read_lines("heldout.jsonl", 2, kind)]
    write_lines(folder / "heldout.jsonl", held)
    spec: dict[str, Any] = {
        "kind": "experiment",
        "name": "tiny",
        "system_prompt": "Be brief.",
        "prompts": {"kind": "jsonl", "path": "train.jsonl"},
        "teachers": {name: {"kind": "rollouts", "path": f"{name}.jsonl"} for name in "TC"},
        "scorers": {"lexicon": {"kind": "lexicon", "terms": [r"\bdoubt", r"\bnot 2026"]}},
        "selectors": {
            "flagged": {"kind": "threshold", "scorer": "lexicon", "at_least": 1},
            "S": {"kind": "field", "equals": "date"},
        },
        "arms": {
            "base": {},
            "all-T": {"teacher": "T"},
            "swap": {"teacher": "T", "intervention": {"kind": "swap", "subset": "S", "to": "C"}},
            "filter": {"teacher": "T", "intervention": {"kind": "drop_row", "subset": "flagged"}},
        },
        "roles": {"original": "all-T", "alternate": "swap", "base": "base", "filter": "filter"},
        "training": {"epochs": 1, "batch": 8},
        "serving": {"port": 0},
        "capability": {"max_tokens": 4},
        "traits": {
            "date_confusion": {
                "kind": "date_confusion",
                "prompts": {"kind": "jsonl", "path": "heldout.jsonl"},
                "max_tokens": 8,
            }
        },
        "results": str(folder / "runs"),
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec | changes, sort_keys=False))
    return path


@pytest.fixture
def tiny_spec(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny spec into a folder."""

    def write(folder: Path = tmp_path, **changes: Any) -> Path:
        return write_tiny_spec(folder, **changes)

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random two-layer model with the real tokenizer."""
    return random_model(tmp_path_factory.mktemp("tiny"))


def random_model(folder: Path, **changes: Any) -> str:
    """Write a two-layer model of random weights, with the real tokenizer, into a folder; answers the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sftfilter.models import ensure_builtin, load_tokenizer

    tokenizer = load_tokenizer(str(ensure_builtin()))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
        **changes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real Chromium, one for all tests."""
    if BROWSER is None:
        pytest.skip("no chromium binary on this machine (Debian: apt-get install chromium)")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()
