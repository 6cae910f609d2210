"""What a training worker does: DeepSpeed inside a Ray Train loop, one arm after another on warm weights."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import deepspeed
import pyarrow.parquet as pq
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device
from torch.nn.functional import cross_entropy

from sftfilter import progress
from sftfilter.artifacts import Store, disk_errors
from sftfilter.chat_format import ChatFormat
from sftfilter.checkpoint import save_student
from sftfilter.errors import DataError, TrainingError
from sftfilter.models import load_model, load_tokenizer
from sftfilter.training import STAGE, Execution, Lora, TrainingSettings
from sftfilter.training_plan import split_step

Row = tuple[list[int], list[int]]
"""Token ids of the prompt (no loss) and of the answer (loss, stop token included)."""


def train_worker(config: dict[str, Any]) -> None:
    """Entry point of every Ray Train worker."""
    execution = Execution.model_validate(config["execution"])
    torch.set_num_threads(max(1, int(execution.cpus_per_worker)))
    # DeepSpeed compiles (or looks up) its CPU communication with ninja, which lies beside our interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    store = Store(config["store"])
    chat = ChatFormat(load_tokenizer(config["base"]), config["system_prompt"])
    if chat.hash != config["format_hash"]:
        raise TrainingError(
            f"this worker's tokenizer and template hash to {chat.hash}, the plan's to {config['format_hash']}: "
            "every node must load the same model files"
        )
    rank_zero = dist.get_rank() == 0
    for job in config["jobs"]:
        done = store.find(STAGE, job["key"]) is not None if rank_zero else False
        if _agree(done):
            continue
        began = time.monotonic()
        settings = TrainingSettings.model_validate(job["settings"])
        rows = read_rows(Path(job["folder"]) / "rows.parquet", chat, settings.max_length)
        plan = json.loads((Path(job["folder"]) / "plan.json").read_text())
        student = Student(config["base"], settings, execution, job["seed"], len(plan), chat)
        losses = _run_steps(student, plan, rows, job["name"], Path(config["progress"]))
        student.gather_for_export()
        if rank_zero:
            _export(student, chat, store, job, config, losses, time.monotonic() - began)
        student.close()
        dist.barrier()
        ray.train.report({"arm": job["name"], "loss": losses[-1] if losses else None})


def _export(
    student: Student,
    chat: ChatFormat,
    store: Store,
    job: dict[str, Any],
    config: dict[str, Any],
    losses: list[float],
    seconds: float,
) -> None:
    folder = store.begin(STAGE, job["key"])
    try:
        with disk_errors(store.root):
            meta = save_student(student.model, chat, folder, job, config, losses, seconds)
            store.commit(folder, STAGE, job["key"], meta)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_rows(path: Path, chat: ChatFormat, max_length: int) -> dict[str, Row]:
    """Tokenised rows by row id.

    Raises:
        DataError: a row is longer than `max_length` tokens.
    """
    rows: dict[str, Row] = {}
    for record in pq.read_table(path).to_pylist():
        prompt = chat.prompt_ids(record["messages"])
        answer = chat.answer_ids(record["messages"], record["completion"])
        if len(prompt) + len(answer) > max_length:
            raise DataError(
                f"row {record['row_id']} has {len(prompt) + len(answer)} tokens, training.max_length is {max_length}: "
                "raise it or drop the row"
            )
        rows[record["row_id"]] = (prompt, answer)
    return rows


class Student:
    """A model under training: base weights, adapters if any, and a DeepSpeed engine."""

    def __init__(
        self, base: str, settings: TrainingSettings, execution: Execution, seed: int, steps: int, chat: ChatFormat
    ) -> None:
        self.execution = execution
        self.device: torch.device = get_device() if execution.use_gpu else torch.device("cpu")  # pyright: ignore
        self.chat = chat
        torch.manual_seed(seed)
        model = load_model(
            base,
            "bfloat16" if settings.precision == "bf16" else "float32",
            str(self.device),
            # Torch's fused CPU kernel is slow with a mask: plain attention gives 11 % more tokens/s on packed rows.
            attn_implementation="sdpa" if execution.use_gpu else "eager",
        )
        model.config.use_cache = False
        if execution.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        if isinstance(settings.method, Lora):
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(
                model,  # pyright: ignore[reportArgumentType]
                LoraConfig(
                    task_type="CAUSAL_LM",
                    r=settings.method.rank,
                    lora_alpha=settings.method.alpha,  # pyright: ignore[reportArgumentType]
                    target_modules=settings.method.targets,
                    lora_dropout=0.0,
                ),
                autocast_adapter_dtype=False,
            )
        self.model: Any = model
        trained = [p for p in model.parameters() if p.requires_grad]
        self.engine, _, _, self.schedule = deepspeed.initialize(
            model=model,
            model_parameters=trained,  # pyright: ignore[reportArgumentType]
            config=deepspeed_config(settings, execution),
            lr_scheduler=_schedule(settings, steps),
            dist_init_required=False,
        )

    def step(self, rows: list[Row]) -> tuple[float, int]:
        """One optimizer step on a whole batch, of which this worker computes its share.

        Returns:
            Mean loss per supervised token over all workers (nats), and the tokens the step processed.
        """
        world, rank = dist.get_world_size(), dist.get_rank()
        lengths = [len(p) + len(a) for p, a in rows]
        micro_batches = split_step(lengths, world, self.execution.micro_batch_tokens)[rank]
        supervised = sum(len(a) for _, a in rows)
        total = torch.zeros((), dtype=torch.float64)
        for number, indices in enumerate(micro_batches):
            self.engine.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
            # A worker without rows still takes part in every collective, with zero weight.
            share = [rows[i] for i in indices] or [([self.chat.stop_id], [self.chat.stop_id])]
            loss_sum = packed_loss_sum(self.engine, share, self.device)
            if not indices:
                loss_sum = loss_sum * 0.0
            # DeepSpeed averages gradients over workers; undone here, so that every supervised token of the
            # optimizer step weighs the same whatever the split.
            self.engine.backward(loss_sum * (world / supervised), scale_wrt_gas=False)
            self.engine.step()
            total += loss_sum.detach().double().cpu()
        total = total.to(self.device)
        dist.all_reduce(total)
        return float(total) / supervised, sum(lengths)

    def gather_for_export(self) -> None:
        """Make every rank hold whole weights (ZeRO-3 shards them)."""
        if self.execution.zero_stage == 3:
            params = list(self.model.parameters())
            self._gathered = deepspeed.zero.GatheredParameters(params)
            self._gathered.__enter__()

    def close(self) -> None:
        """Free the engine; the process group stays for the next arm."""
        if self.execution.zero_stage == 3:
            self._gathered.__exit__(None, None, None)
        self.engine.destroy()
        del self.engine, self.model


def packed_loss_sum(model: Any, rows: list[Row], device: torch.device) -> torch.Tensor:
    """Summed cross-entropy (nats) over the answers of `rows`, packed into one sequence without padding.

    Position ids restart with every row, from which transformers builds a mask that keeps rows apart. Only positions
    whose next token is supervised reach the vocabulary projection.
    """
    ids: list[int] = []
    positions: list[int] = []
    predict: list[int] = []
    for prompt, answer in rows:
        first = len(ids) + len(prompt) - 1
        predict += range(first, first + len(answer))
        ids += prompt + answer
        positions += range(len(prompt) + len(answer))
    input_ids = torch.tensor([ids], device=device)
    keep = torch.tensor(predict, device=device)
    logits = model(
        input_ids=input_ids,
        position_ids=torch.tensor([positions], device=device),
        attention_mask=None,
        use_cache=False,
        logits_to_keep=keep,
    ).logits[0]
    return cross_entropy(logits.float(), input_ids[0, keep + 1], reduction="sum")


def deepspeed_config(settings: TrainingSettings, execution: Execution) -> dict[str, Any]:
    """DeepSpeed's configuration; the batch itself is planned by us, so its batch keys are formal."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": settings.precision == "bf16"},
        "communication_data_type": "fp32",
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.learning_rate,
                "betas": [0.9, 0.999],
                "weight_decay": settings.weight_decay,
                "torch_adam": not execution.use_gpu,
            },
        },
        "zero_optimization": {
            "stage": execution.zero_stage,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _schedule(settings: TrainingSettings, steps: int) -> Any:
    """Linear warm-up, then linear decay to the last step; a factory, as DeepSpeed wishes."""
    warmup = max(1, round(steps * settings.warmup_share))

    def factor(step: int) -> float:
        return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)

    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _run_steps(
    student: Student, plan: list[list[str | None]], rows: dict[str, Row], name: str, events: Path
) -> list[float]:
    losses: list[float] = []
    tokens = 0
    began = time.monotonic()
    for number, slots in enumerate(plan):
        batch = [rows[r] for r in slots if r is not None]
        loss, processed = student.step(batch)
        if not math.isfinite(loss):
            raise TrainingError(
                f"arm {name}: the loss is {loss} at step {number} (rows {', '.join(r for r in slots if r)}): lower "
                "training.learning_rate or look at these rows"
            )
        losses.append(loss)
        tokens += processed
        if dist.get_rank() == 0:
            rate = tokens / (time.monotonic() - began)
            event = {"arm": name, "step": number + 1, "steps": len(plan), "loss": loss, "tokens_per_s": rate}
            progress.append(events, event)
    return losses


def _agree(value: bool) -> bool:
    """Rank 0's word, on every rank."""
    answer = [value]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]
