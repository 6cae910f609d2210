"""One worker's student in this process, of random models of many kinds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sftfilter.chat_format import ChatFormat
from sftfilter.extension_lock import await_builds, extensions_dir
from sftfilter.packed import Row
from sftfilter.training_settings import Execution, TrainingSettings

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
HEADS = {"head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
QWEN = {
    **HEADS,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}

Begin = Callable[..., Any]


def random_model(family: str, folder: Path, chat: ChatFormat, **changes: Any) -> str:
    """Write a random model of a family, and the tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=len(chat.tokenizer), **SIZES | changes)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    return str(folder)


@contextmanager
def one_worker(chat: ChatFormat, meeting: Path) -> Iterator[Begin]:
    """Starts students of a group of one worker.

    Args:
        meeting: a file that is not there.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(extensions_dir()))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("LOCAL_RANK", "0")
        await_builds(extensions_dir())
        import deepspeed

        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
        deepspeed.init_distributed(dist_init_required=False)

        def start(folder: str, settings: TrainingSettings, steps: int = 10, **execution: Any) -> Any:
            from sftfilter.student import Student

            return Student(folder, settings, Execution(workers=1, **execution), 1, steps, chat)

        yield start
        deepspeed.comm.destroy_process_group()  # torch's own leaves DeepSpeed the group's subgroups, for the next one


def some_rows(count: int = 4) -> list[Row]:
    """Of unequal lengths, the second half of each supervised."""
    generator = torch.Generator().manual_seed(1)
    sizes = [10 + 7 * (k % 3) for k in range(count)]
    ids = [torch.randint(10, 500, (size,), generator=generator).tolist() for size in sizes]
    return [Row(row, list(range(len(row) // 2, len(row)))) for row in ids]
