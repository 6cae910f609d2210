"""A training small enough for tests of exactness: a random Llama with the real tokenizer, and a plain loop as oracle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import fs
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from sftfilter.artifacts import Artifact, Store
from sftfilter.chat_format import ChatFormat
from sftfilter.models import load_model, load_tokenizer, weights_hash
from sftfilter.packed import Row
from sftfilter.reading.places import complete, filesystem
from sftfilter.student import Student
from sftfilter.train_loop import read_rows
from sftfilter.training import Execution, Full, Lora, TrainingRun, TrainingSettings, train_all
from sftfilter.training_plan import make_plan


def turn(role: str, content: str) -> dict[str, str]:
    """A message."""
    return {"role": role, "content": content}


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Rows of unequal lengths; every third has an earlier assistant turn."""
    made = []
    for i in range(count):
        messages = [turn("user", "word " * (1 + 3 * (i % 5)) + str(i))]
        if i % 3 == 0:
            messages += [turn("assistant", f"first answer {i}"), turn("user", "and then?")]
        made.append(
            {"row_id": f"r{i}", "messages": messages, "completion": "answer " * (1 + i % 4) + "done"},
        )
    return made


FULL = TrainingSettings(method=Full(), learning_rate=1e-3, epochs=2, batch=5, precision="fp32")
LORA = TrainingSettings(
    method=Lora(rank=4, alpha=8), learning_rate=1e-2, weight_decay=0.1, epochs=2, batch=5, precision="fp32"
)


@dataclass
class Case:
    """A base model and how to train on it."""

    model: str
    chat: ChatFormat
    storage: Path
    events: list[Mapping[str, Any]] = field(default_factory=list)

    def run(
        self, name: str, settings: TrainingSettings, given: Sequence[Mapping[str, Any]] | None = None, seed: int = 1
    ) -> TrainingRun:
        """A student on these rows."""
        used = list(given or rows())
        ids = [row["row_id"] for row in used]
        plan = make_plan([(i, i) for i in ids], ids, settings, seed)
        return TrainingRun(name, seed, pa.Table.from_pylist(used), plan, settings, {"arm": name})

    def train(
        self,
        runs: Sequence[TrainingRun],
        into: str,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        **execution: Any,
    ) -> dict[str, Artifact]:
        """Train below `storage / into`."""
        return train_all(
            runs,
            store=Store(self.storage / into / "store"),
            base=self.model,
            base_hash=weights_hash(self.model),
            system_prompt=self.chat.system_prompt,
            format_hash=self.chat.hash,
            execution=Execution(**execution),
            storage=self.storage / into,
            on_event=on_event or self.events.append,
        )

    def rows_of(self, run: TrainingRun) -> dict[str, Row]:
        """Tokenised, as a worker does it."""
        file = self.storage / f"rows-{run.name}.parquet"
        pq.write_table(run.rows, file)
        return read_rows(file, self.chat, run.settings)

    def oracle(
        self,
        run: TrainingRun,
        masked: Callable[[Row], Sequence[int]] = lambda row: row.supervised,
        steps_done: int | None = None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Merged weights, and the gradients of the first step (unclipped), of a plain loop: one process, one row at a
        time, token-weighted over the whole optimizer step, AdamW by torch.

        Args:
            masked: positions that the loss is taken on; tests plant wrong ones.
            steps_done: stop there; default: the whole plan.
        """
        settings, tokens = run.settings, self.rows_of(run)
        torch.manual_seed(run.seed)
        model: Any = load_model(self.model, "float32")
        if isinstance(settings.method, Lora):
            from peft import LoraConfig, get_peft_model

            layers, top = model.config.num_hidden_layers, settings.method.top_layers
            lower = None if top is None else rf".*\.layers\.[0-{layers - top - 1}]\..*"
            model = get_peft_model(
                model,
                LoraConfig(
                    task_type="CAUSAL_LM",
                    r=settings.method.rank,
                    lora_alpha=settings.method.alpha,  # pyright: ignore[reportArgumentType]
                    target_modules=settings.method.targets,
                    exclude_modules=lower,
                ),
            )
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            trained.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.999)
        )
        steps, first = len(run.plan.steps), {}
        warmup = max(1, round(steps * settings.warmup_share))
        for number, slots in enumerate(run.plan.steps[:steps_done]):
            for group in optimizer.param_groups:
                decay = (steps - number) / max(1, steps - warmup)
                group["lr"] = settings.learning_rate * min((number + 1) / warmup, decay, 1.0)
            batch = [tokens[slot] for slot in slots if slot is not None]
            supervised = sum(len(masked(row)) for row in batch)
            for row in batch:
                at = torch.tensor(masked(row))
                ids = torch.tensor([row.ids])
                logits = model(input_ids=ids).logits[0]
                (cross_entropy(logits[at - 1], ids[0, at], reduction="sum") / supervised).backward()
            first = first or {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
            torch.nn.utils.clip_grad_norm_(trained.values(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        merged = model.merge_and_unload() if isinstance(settings.method, Lora) else model
        return {name: tensor.detach().clone() for name, tensor in merged.state_dict().items()}, first


def tiny_llama(folder: Path, chat: ChatFormat, context: int = 256, layers: int = 2) -> str:
    """A random model with the chat format's tokenizer; odd sizes, so that shards are uneven."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(chat.tokenizer),
        hidden_size=24,
        intermediate_size=50,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=context,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    return str(folder)


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    """Of a student, merged."""
    return load_file(artifact.path / "model.safetensors")


def furthest(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of any weight."""
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


def same_bits(one: Artifact, other: Artifact) -> bool:
    """Whether two students are the same file, bit for bit."""
    return (one.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()


class Killer:
    """Kills a process of a training once a checkpoint of the arm is whole, then lets it be.

    Args:
        place: folder or bucket that checkpoints go to.
        arms: each is struck once.
        strike: is given the workers of the group (rank, host, pid).
    """

    def __init__(
        self, place: str | Path, arms: Sequence[str], strike: Callable[[Sequence[Mapping[str, Any]]], None]
    ) -> None:
        self.filesystem, self.folder = filesystem(complete(str(place)))
        self.left, self.strike = list(arms), strike
        self.events: list[Mapping[str, Any]] = []
        self._workers: Sequence[Mapping[str, Any]] = ()
        self.struck_at: dict[str, tuple[int, float]] = {}
        self.recovered: dict[str, float] = {}
        """Arm -> seconds from the strike to the first step past it."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)
        self._workers = event.get("workers", self._workers)
        if "step" in event and event["arm"] in self.struck_at and event["arm"] not in self.recovered:
            step, when = self.struck_at[event["arm"]]
            if event["step"] > step and event["arm"] in self.resumed():
                self.recovered[event["arm"]] = time.monotonic() - when
        if "step" in event and event["arm"] in self.left and self._saved() == event["arm"]:
            self.left.remove(event["arm"])
            self.struck_at[event["arm"]] = (event["step"], time.monotonic())
            self.strike(self._workers)

    def resumed(self) -> dict[str, int]:
        """Arm -> the step that it went on from."""
        return {event["resumed"]: event["at"] for event in self.events if "resumed" in event}

    def checkpoints(self) -> list[str]:
        """Paths of the checkpoints that lie there, whole or not."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.folder, allow_not_found=True, recursive=True))
        return [info.path for info in found if info.base_name.startswith("checkpoint_") and not info.is_file]

    def _saved(self) -> str | None:
        """The arm whose checkpoint is whole."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.folder, allow_not_found=True, recursive=True))
        for info in found:
            if info.base_name == "checkpoint_manager_snapshot.json":
                with contextlib.suppress(ValueError, OSError), self.filesystem.open_input_stream(info.path) as stream:
                    latest = json.loads(stream.read())["latest_checkpoint_result"]  # unless Ray Train is writing it
                    return latest["metrics"]["arm"] if latest else None
        return None


def kill_one(workers: Sequence[Mapping[str, Any]]) -> None:
    """SIGKILL to the last worker."""
    os.kill(workers[-1]["pid"], signal.SIGKILL)


def gradients_on_worker(config: Mapping[str, Any]) -> None:
    """Writes the gradients of a step (mean over supervised tokens, unclipped) for every way to split it."""
    torch.set_num_threads(1)
    chat = ChatFormat(load_tokenizer(config["model"]), config["system_prompt"])
    for tried in config["tried"]:
        settings = TrainingSettings.model_validate(tried["settings"])
        tokens = read_rows(Path(tried["rows"]), chat, settings)
        batch = [tokens[slot] for slot in tried["step"]]
        for zero_stage, micro_batch_tokens in tried["ways"]:
            execution = Execution(zero_stage=zero_stage, micro_batch_tokens=micro_batch_tokens)
            student = Student(config["model"], settings, execution, tried["seed"], 10, chat)
            kept = _gradients(student, batch)
            if torch.distributed.get_rank() == 0:
                save_file(kept, Path(tried["out"]) / f"{zero_stage}-{micro_batch_tokens}.safetensors")
            student.close()


def _gradients(student: Student, batch: list[Row]) -> dict[str, torch.Tensor]:
    """What the optimizer is about to be given, taken at the end of a whole step."""
    from deepspeed.utils import safe_get_full_grad

    engine: Any = student.engine
    kept: dict[str, torch.Tensor] = {}
    whole_step = engine.step

    def step() -> None:
        if engine.is_gradient_accumulation_boundary():
            for name, p in engine.module.named_parameters():
                if p.requires_grad:
                    kept[name] = safe_get_full_grad(p).detach().float().clone().contiguous()  # pyright: ignore
        whole_step()

    engine.step = step
    student.step(batch)
    return kept
