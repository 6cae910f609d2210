"""A student under training: base weights, adapters, a DeepSpeed engine, and the exact optimizer step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from ray.train.torch import get_device

from sftfilter.chat_format import ChatFormat
from sftfilter.checkpoint import copied, merged_weights
from sftfilter.deepspeed_config import deepspeed_config
from sftfilter.llama_loss import is_known
from sftfilter.lower_states import LowerStates
from sftfilter.packed import Row, keeps_rows_apart, packed_loss_sum, tree_loss_sum
from sftfilter.sharded import collected_weights, forget_sharded
from sftfilter.training_plan import split_step
from sftfilter.training_settings import Execution, Lora, TrainingSettings
from sftfilter.warm_base import WarmBase, first_trained, with_adapters


class Student:
    """A model under training: base weights, adapters if any, and a DeepSpeed engine.

    Args:
        warm: the worker's base model, to be had back when the student is closed; default: one of its own.
        states_at: where a screening keeps the states below its adapters.
        splits: a step may have more than one micro-batch.
    """

    def __init__(
        self,
        base: str,
        settings: TrainingSettings,
        execution: Execution,
        seed: int,
        steps: int,
        chat: ChatFormat,
        universal: bool = False,
        warm: WarmBase | None = None,
        states_at: Path | None = None,
        splits: bool = True,
    ) -> None:
        self.execution = execution
        self.device = training_device(execution)
        self.chat = chat
        self.precision: Literal["bf16", "fp32"] = settings.precision
        self.micro_batch: list[int] = []  # what of the step's rows is being computed, for whoever reports a failure
        self.bad_rows: list[int] = []  # rows of the last step's micro-batches whose loss was not finite
        self.gradient_norm = 0.0  # of the last step, over all workers, before it was clipped
        self.spent: dict[str, float] = {}  # seconds of the last step by what they went to
        self.base = warm or WarmBase(base, execution, self.device)
        torch.manual_seed(seed)
        model = self.base.lend(settings)
        if execution.zero_stage == 3:
            torch.manual_seed(seed)  # loading in parts draws numbers on its way
        self.keeps_below = False  # what enters the lowest trained layer is computed once for a row
        self.loss_sum = self._way(model, settings, states_at)
        bf16 = model.dtype == torch.bfloat16
        if isinstance(settings.method, Lora):
            model = with_adapters(model, settings.method)
        self.model: Any = model
        trained = [p for p in model.parameters() if p.requires_grad]
        self.engine, _, _, self.schedule = deepspeed.initialize(
            model=model,
            model_parameters=trained,  # pyright: ignore[reportArgumentType]
            # Whether `packed_loss_sum` takes more than one row at a time is only known once there is an engine.
            config=deepspeed_config(
                settings, execution, universal, bf16=bf16, accumulates=splits or self.loss_sum is packed_loss_sum
            ),
            lr_scheduler=_schedule(settings, steps),
            dist_init_required=False,
        )
        self.packs = self._packs()

    def _way(self, model: Any, settings: TrainingSettings, states_at: Path | None) -> Callable[..., torch.Tensor]:
        """How a micro-batch's loss is computed: the quick way where the model allows it."""
        if self.device.type != "cpu" or self.execution.zero_stage == 3 or not is_known(model):
            return packed_loss_sum
        first = first_trained(model, settings.method) if isinstance(settings.method, Lora) else 0
        if not first:
            return tree_loss_sum
        self.keeps_below = states_at is not None
        limit = int(self.execution.states_gib * 2**30)
        return LowerStates(model, first, states_at, limit, dist.get_world_size()).loss_sum

    def _packs(self) -> bool:
        """Whether rows may share a forward pass; the same on every worker."""
        if self.loss_sum is not packed_loss_sum:
            return True
        vocabulary = self.model.config.get_text_config().vocab_size
        apart = torch.tensor(int(keeps_rows_apart(self.engine, vocabulary, self.device)), device=self.device)
        dist.all_reduce(apart, op=dist.ReduceOp.MIN)
        return bool(apart)

    def step(self, rows: list[Row]) -> tuple[float, int]:
        """One optimizer step on a whole batch, of which this worker computes its share.

        Returns:
            Mean loss per supervised token over all workers (nats), and the tokens the step processed.
        """
        world, rank = dist.get_world_size(), dist.get_rank()
        lengths = [len(row) for row in rows]
        most = self.execution.micro_batch_tokens if self.packs else 1  # one token: no two rows fit
        micro_batches = split_step(lengths, world, most)[rank]
        supervised = sum(len(row.supervised) for row in rows)
        total = torch.zeros((), dtype=torch.float64)
        self.bad_rows = []
        self.spent = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
        own = 0.0
        for number, indices in enumerate(micro_batches):
            self.micro_batch = indices
            last = number == len(micro_batches) - 1
            self.engine.set_gradient_accumulation_boundary(last)
            # A worker without rows still takes part in every collective, with zero weight.
            share = [rows[i] for i in indices] or [Row([self.chat.stop_id] * 2, [1])]
            with self._timed("forward"):
                loss_sum = self.loss_sum(self.engine, share, self.device)
            if not indices:
                loss_sum = loss_sum * 0.0
            # DeepSpeed averages gradients over workers; undone here, so that every supervised token of the
            # optimizer step weighs the same whatever the split.
            with self._timed("backward"):
                self.engine.backward(loss_sum * (world / supervised), scale_wrt_gas=False)
            with self._timed("optimizer"):
                own = self._own_norm() if last else own
                self.engine.step()
            total += loss_sum.detach().double().cpu()
            if not torch.isfinite(total) and not self.bad_rows:
                self.bad_rows = indices
        known = self.engine.get_global_grad_norm()
        self.gradient_norm = float(own if known is None else known)
        total = total.to(self.device)
        dist.all_reduce(total)
        return float(total) / supervised, sum(lengths)

    def _own_norm(self) -> float:
        """Norm of the gradients that the optimizer is about to be given: without ZeRO, DeepSpeed clips and tells none."""
        if self.execution.zero_stage:
            return 0.0
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":  # otherwise it would be the time that launching took
            torch.cuda.synchronize(self.device)
        self.spent[what] += time.perf_counter() - began

    def weights(self, kept: bool = False) -> dict[str, torch.Tensor]:
        """Whole weights under the base model's names, adapters merged; on rank 0, nothing elsewhere. All ranks call it.

        Args:
            kept: as copies in the host's memory, which training does not change.
        """
        if self.execution.zero_stage == 3:
            return collected_weights(self.model, self.precision)
        if dist.get_rank() != 0:
            return {}
        weights = merged_weights(self.model, self.precision)
        return copied(weights) if kept else weights

    @contextmanager
    def whole_adapters(self) -> Iterator[None]:
        """While it lasts, every rank holds whole adapters, if there are any (ZeRO 3 shards them). All ranks enter it."""
        adapters = hasattr(self.model, "peft_config") and self.execution.zero_stage == 3
        parts = [p for p in self.model.parameters() if p.requires_grad] if adapters else []
        with deepspeed.zero.GatheredParameters(parts, enabled=bool(parts)):
            yield

    def close(self) -> None:
        """Free the engine; the process group stays for the next arm."""
        self.engine.destroy()
        kept = self.base.take_back(self.model)
        del self.engine, self.model
        if kept:
            return
        forget_sharded()
        gc.collect()  # models and engines hold on to themselves, and two would be in memory while the next one is loaded
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def training_device(execution: Execution) -> torch.device:
    """This worker's GPU, or the CPU."""
    return get_device() if execution.use_gpu else torch.device("cpu")  # pyright: ignore[reportReturnType]


def _schedule(settings: TrainingSettings, steps: int) -> Any:
    """Linear warm-up, then linear decay to the last step; a factory, as DeepSpeed wishes."""
    warmup = max(1, round(steps * settings.warmup_share))

    def factor(step: int) -> float:
        return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)

    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
