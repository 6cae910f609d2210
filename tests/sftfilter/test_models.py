"""A model's folder is data: nothing in it is run, and nobody is asked whether it should be."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.tutoring import base_of
from sftfilter.errors import DataError
from sftfilter.models import load_model, load_tokenizer

ROOT = Path(__file__).parents[2]
FOLDERS = ("sftfilter", "serve", "jobs", "cluster")
AUTO_MAP = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}


@pytest.fixture
def with_code(tmp_path: Path, tiny_chat_model: Path) -> Path:
    """A model whose configuration and tokenizer name Python files beside them, which say when they are run."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_chat_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": AUTO_MAP}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w').close()")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | own))
    return folder


@pytest.mark.parametrize("load", [lambda folder: base_of(folder, None), load_model, load_tokenizer])
def test_a_model_with_code_of_its_own_is_refused_without_a_question(
    with_code: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[str], Any]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")  # a person who agrees to all
    with pytest.raises(DataError, match="checkpoints are data here, never code: choose a model") as refused:
        load(str(with_code))
    assert str(with_code) in str(refused.value) and "trust_remote_code" not in str(refused.value)
    assert asked == [] and not (with_code.parent / "was run").exists()


def _loads(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls of `Auto....from_pretrained`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            owner = ast.unparse(node.func.value).rpartition(".")[2]
            if owner.startswith("Auto"):
                yield node


def test_every_auto_class_is_told_to_run_no_code() -> None:
    found = [
        (path, call)
        for name in FOLDERS
        for path in (ROOT / name).rglob("*.py")
        for call in _loads(ast.parse(path.read_text()))
    ]
    assert len(found) >= 7, "the walk no longer finds the calls"
    without = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path, call in found
        if not any(
            word.arg == "trust_remote_code" and isinstance(word.value, ast.Constant) and word.value.value is False
            for word in call.keywords
        )
    ]
    assert without == []
