"""A training backend for tiny models: the interface of `training.train_all`, in this process, all students at once.

Runs, plans, settings and artifacts are those of the DeepSpeed backend, so that whatever plans arms for one can train them
on the other. A base is a folder with `model.safetensors` and `words.json`.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from sftfilter.artifacts import Artifact, Store
from sftfilter.config import file_hash, stable_hash
from sftfilter.errors import DataError, DivergedError
from sftfilter.schema import Message
from sftfilter.worlds import tiny
from sftfilter.worlds.made import bags, counted
from sftfilter.worlds.words import Words

if TYPE_CHECKING:
    from sftfilter.step_asking import AskStep
    from sftfilter.training import Execution, TrainingRun

STAGE = "tiny-student"
VERSION = 1
MODEL, WORDS = "model.safetensors", "words.json"


class TrainAll(Protocol):
    """What a training backend is: `training.train_all` with Ray Train and DeepSpeed, `train_all` here."""

    def __call__(
        self,
        runs: Sequence[TrainingRun],
        *,
        store: Store,
        base: str,
        base_hash: str,
        system_prompt: str | None,
        format_hash: str,
        execution: Execution,
        storage: Path,
        on_event: Callable[[Mapping[str, Any]], None],
        ask: AskStep | None = None,
    ) -> dict[str, Artifact]:
        """Train what is not in the store yet; answers an artifact for each run's name."""
        ...


def save_base(folder: Path, weights: tiny.Weights, words: Words) -> str:
    """Write a base model; answers its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: values.contiguous() for name, values in weights.items()}, folder / MODEL)
    (folder / WORDS).write_text(json.dumps(dict(words.of)))
    return file_hash(folder / MODEL)


def load_model(folder: Path) -> tiny.Weights:
    """Weights of a base or a student."""
    return load_file(folder / MODEL)


def train_all(
    runs: Sequence[TrainingRun],
    *,
    store: Store,
    base: str,
    base_hash: str,
    system_prompt: str | None,
    format_hash: str,
    execution: Execution,  # noqa: ARG001
    storage: Path,  # noqa: ARG001
    on_event: Callable[[Mapping[str, Any]], None],
    ask: AskStep | None = None,  # noqa: ARG001
) -> dict[str, Artifact]:
    """Train what is not in the store yet, side by side; answers an artifact for each run's name.

    Runs with equal rows, order, settings and seed are one training, whatever their names. Arguments are those of
    `training.train_all`; there are no workers to place and nothing is written but the artifacts.

    Raises:
        DataError: a row has a word that the base does not know.
        DivergedError: losses are not finite; the other students are in the store.
    """
    keys = {run.name: _key(run, store, base_hash, format_hash, system_prompt) for run in runs}
    found = {key: store.find(STAGE, key) for key in keys.values()}
    missing: dict[str, TrainingRun] = {}
    for run in runs:
        if found[keys[run.name]] is None:
            missing.setdefault(keys[run.name], run)
    if missing:
        words = Words(json.loads((Path(base) / WORDS).read_text()))
        began = time.monotonic()
        wanted = list(missing.values())
        trained, losses, given_up = _train(wanted, load_model(Path(base)), words, system_prompt, on_event)
        seconds = (time.monotonic() - began) / len(wanted)
        for place, (key, run) in enumerate(missing.items()):
            if run.name in given_up:
                continue
            found[key] = _keep(run, key, tiny.unstack(trained, place), losses[place], seconds, store, format_hash)
        if given_up:
            lost = {name: given_up[missing[key].name] for name, key in keys.items() if found[key] is None}
            raise DivergedError("; ".join(given_up.values()), lost)
    return {name: artifact for name, key in keys.items() if (artifact := found[key])}


def _train(
    runs: Sequence[TrainingRun],
    base: tiny.Weights,
    words: Words,
    system_prompt: str | None,
    on_event: Callable[[Mapping[str, Any]], None],
) -> tuple[tiny.Weights, list[list[float]], dict[str, str]]:
    """Weights and losses of all, and of those whose loss was not finite when and what it was."""
    given_up: dict[str, str] = {}
    texts: dict[tuple[str, str], int] = {}
    courses = []
    for run in runs:
        numbered = {}
        for row in run.rows.to_pylist():
            text = (prompt_text(row["messages"], system_prompt), row["completion"])
            _check_known(row["row_id"], text, words)
            numbered[row["row_id"]] = texts.setdefault(text, len(texts))
        steps = [[None if slot is None else numbered[slot] for slot in step] for step in run.plan.steps]
        s = run.settings
        courses.append(tiny.Course(steps, s.learning_rate, s.warmup_share, s.weight_decay, s.max_grad_norm))

    def report(step: int, loss: torch.Tensor) -> None:
        for run, value in zip(runs, loss.tolist(), strict=True):
            if step < len(run.plan.steps):
                if not math.isfinite(value):
                    why = f"arm {run.name}: the loss is {value} at step {step}: lower the learning rate"
                    given_up.setdefault(run.name, why)
                on_event({"arm": run.name, "step": step + 1, "steps": len(run.plan.steps), "loss": value,
                          "tokens_per_s": 0.0})  # fmt: skip

    prompts, answers = bags(words, [p for p, _ in texts]), counted(words, [a for _, a in texts])
    trained, losses = tiny.train(tiny.stack([base] * len(runs)), prompts, answers, courses, tiny.HIDDEN, report)
    return trained, losses, given_up


def prompt_text(messages: Sequence[Message], system_prompt: str | None = None) -> str:
    """All turns in one line, which is all that a bag of words sees."""
    return " ".join([*([system_prompt] if system_prompt else []), *(m["content"] for m in messages)])


def _check_known(row: str, texts: tuple[str, str], words: Words) -> None:
    unknown = [word for text in texts for word in text.split() if word not in words.numbered]
    if unknown:
        raise DataError(f"row {row}: the base has no word '{unknown[0]}'; tiny models know their world's words only")


def _key(run: TrainingRun, store: Store, base_hash: str, format_hash: str, system_prompt: str | None) -> str:
    texts = sorted((r["row_id"], r["messages"], r["completion"]) for r in run.rows.to_pylist())
    inputs = {"base": base_hash, "format": format_hash, "plan": run.plan.hash, "rows": stable_hash(texts)}
    settings = {"training": run.settings.model_dump(mode="json"), "seed": run.seed, "system_prompt": system_prompt}
    return store.key(STAGE, VERSION, settings, inputs)


def _keep(
    run: TrainingRun,
    key: str,
    weights: tiny.Weights,
    losses: Sequence[float],
    seconds: float,
    store: Store,
    format_hash: str,
) -> Artifact:
    folder = store.begin(STAGE, key)
    try:
        save_file(weights, folder / MODEL)
        (folder / "losses.json").write_text(json.dumps(list(losses)))
        meta = {
            **run.labels,
            "steps": len(losses),
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "seconds": seconds,
            "model_hash": file_hash(folder / MODEL),
            "format_hash": format_hash,
            "plan_hash": run.plan.hash,
        }
        return store.commit(folder, STAGE, key, meta)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
