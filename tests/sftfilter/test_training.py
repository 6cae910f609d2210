"""Training is exact: workers, ZeRO stages and micro-batches change nothing, and a plain loop gives the same weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sftfilter.artifacts import Store
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError, MachineError
from sftfilter.models import load_model, load_tokenizer
from sftfilter.packed import packed_loss_sum
from sftfilter.training import Lora, TrainingRun, TrainingSettings
from sftfilter.training_plan import TrainingPlan
from tests.training_case import FULL, LORA, Case, furthest, rows, same_bits, tiny_llama, turn, weights

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def ray_once() -> Iterator[None]:
    """Ray for the whole file; Ray Train looks at its workers ten times as often as by default."""
    from cluster.local import local_ray
    from jobs.run import worker_env

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    with local_ray(worker_env(), cpus=2):
        yield
    del os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"]


@pytest.fixture(scope="module")
def case(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    chat = ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief.")
    folder = tmp_path_factory.mktemp("training")
    return Case(tiny_llama(folder / "model", chat), chat, folder)


@pytest.fixture(scope="module")
def oracle(case: Case) -> dict[str, dict[str, torch.Tensor]]:
    return {name: case.oracle(case.run(name, settings))[0] for name, settings in (("full", FULL), ("lora", LORA))}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("workers", "zero_stage", "micro_batch_tokens"),
    [(1, 0, 4096), (2, 1, 4096), (2, 2, 40), (4, 3, 60)],  # 40 tokens: several micro-batches, unequal, some empty
)
def test_any_split_equals_a_plain_loop(
    ray_once: None,
    case: Case,
    oracle: dict[str, dict[str, torch.Tensor]],
    workers: int,
    zero_stage: int,
    micro_batch_tokens: int,
) -> None:
    made = case.train(
        [case.run("full", FULL), case.run("lora", LORA)],
        f"split-{workers}-{zero_stage}",
        workers=workers,
        zero_stage=zero_stage,
        micro_batch_tokens=micro_batch_tokens,
        cpus_per_worker=0.5,
    )
    start = weights_of(case.model)
    for name, artifact in made.items():
        trained = weights(artifact)
        assert set(trained) == set(start)
        assert furthest(trained, oracle[name]) < TOLERANCE
        assert furthest(trained, start) > 100 * TOLERANCE, "and it did learn"


def weights_of(folder: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")
