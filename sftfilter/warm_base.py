"""The base model of a worker: loaded once, and lent to one arm after another as long as none changes its weights."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import torch

from sftfilter.arithmetic import arithmetic
from sftfilter.deepspeed_config import attention, deepspeed_config
from sftfilter.errors import TrainingError
from sftfilter.llama_loss import is_known, quicken
from sftfilter.models import load_model
from sftfilter.sharded import loaded_in_parts
from sftfilter.training_settings import Execution, Lora, TrainingSettings
from sftfilter.utilisation import product_rate


class WarmBase:
    """A worker's base model.

    Args:
        folder: of the base model.
    """

    def __init__(self, folder: str, execution: Execution, device: torch.device) -> None:
        self.folder, self.execution, self.device = folder, execution, device
        self._idle: tuple[str, Any] | None = None
        self._rates: dict[torch.dtype, float] = {}

    def lend(self, settings: TrainingSettings) -> Any:
        """A causal LM with the base's weights, in the arithmetic that the settings' precision comes to here."""
        dtype = arithmetic(settings.precision, self.device)
        idle, self._idle = self._idle, None
        if idle and idle[0] == dtype and isinstance(settings.method, Lora):
            return idle[1]
        way = attention(self.execution, dtype == "bfloat16", find_spec("flash_attn") is not None)
        if self.execution.zero_stage == 3:
            with loaded_in_parts(deepspeed_config(settings, self.execution, bf16=dtype == "bfloat16")):
                model = load_model(self.folder, dtype, None, attn_implementation=way)
        else:
            model = load_model(self.folder, dtype, str(self.device), attn_implementation=way)
        model.config.use_cache = False
        if self.device.type == "cpu" and self.execution.zero_stage < 3 and is_known(model):
            quicken(model)
        if self.execution.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
            _recompute_layers(model)
        return model

    def product_rate(self, model: Any) -> float:
        """What all workers together reach at products of the model's shapes (FLOP/s); measured once for a number format."""
        dtype = next(model.parameters()).dtype
        if dtype not in self._rates:
            self._rates[dtype] = product_rate(model, self.device)
        return self._rates[dtype]

    def take_back(self, adapted: Any) -> bool:
        """Take the adapters off and keep the base for the next arm; ZeRO-3 has cut it into shards, so there it goes.

        Returns:
            Whether it is kept.
        """
        if not hasattr(adapted, "peft_config") or self.execution.zero_stage == 3:
            return False
        base = adapted.unload()
        self._idle = (str(next(base.parameters()).dtype).removeprefix("torch."), base)
        return True


def _recompute_layers(model: Any) -> None:
    """Put layers into training mode, in which alone transformers recomputes them; dropout stays off.

    What lies inside a layer stays in evaluation mode, as all of the model is without recomputation, so students are
    the same with and without it.

    Raises:
        TrainingError: the model has no layers that transformers recomputes.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise TrainingError(
            f"{type(model).__name__} has no layers that can be recomputed: set execution.gradient_checkpointing: false"
        )
    for layer in layers:
        layer.training = True
        for name, value in vars(layer).items():
            if "drop" in name and isinstance(value, float):
                setattr(layer, name, 0.0)


def with_adapters(model: Any, method: Lora) -> Any:
    """The model with fresh adapters, everything else frozen.

    Raises:
        TrainingError: the model has fewer layers than adapters are wanted on, or no module that can have them, or they are
            wanted on its embeddings.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = (model.get_input_embeddings(), model.get_output_embeddings())

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=method.targets,
        exclude_modules=_lower_layers(model, method),
        lora_dropout=0.0,
    )
    try:
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise TrainingError(
            f"training.method.targets: {method.targets} does not fit {type(model).__name__}: {error} Name the modules that "
            "shall have adapters, such as targets: [in_proj, x_proj]"
        ) from error
    for name, module in adapted.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer) and any(module.get_base_layer() is end for end in ends):
            # Embeddings and head are often one tensor, of which an adapter on either would make two.
            raise TrainingError(
                f"training.method.targets: '{name}' holds embeddings, which are trained whole or not at all: leave it out, "
                "or set training.method: {kind: full}"
            )
    return adapted


def _lower_layers(model: Any, method: Lora) -> str | None:
    """A pattern that matches the modules of every layer that a screening leaves alone."""
    first = first_trained(model, method)
    if not first:
        return None
    count = model.config.get_text_config().num_hidden_layers
    stacks = [n for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if len(stacks) != 1:
        raise TrainingError(
            f"training.method.top_layers: {type(model).__name__} has {len(stacks)} stacks of {count} layers, so which are "
            "the upper ones cannot be told; leave top_layers out"
        )
    return rf"{re.escape(stacks[0])}\.({'|'.join(map(str, range(first)))})\..*"


def first_trained(model: Any, method: Lora) -> int:
    """Number of the lowest layer with an adapter."""
    layers: int = model.config.get_text_config().num_hidden_layers
    if method.top_layers is None:
        return 0
    if method.top_layers >= layers:
        raise TrainingError(
            f"training.method.top_layers is {method.top_layers} and the model has {layers} layers: give fewer, or leave "
            "top_layers out to adapt every layer"
        )
    return layers - method.top_layers
