"""One of two workers that load, train and export a model in parts (ZeRO 3); the first prints what came of it as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from sftfilter.chat_format import ChatFormat
from sftfilter.models import load_tokenizer
from sftfilter.student import Student
from sftfilter.training_settings import Execution
from tests.training_case import FULL, LORA, Case, furthest


class Resident:
    """The most numbers of a model's weights that this worker has held at a time, looked at whenever some are gathered."""

    def __init__(self) -> None:
        self.most = 0
        self._seen: dict[int, Any] = {}
        plain = deepspeed.zero.GatheredParameters.__enter__

        def enter(context: Any) -> Any:
            entered = plain(context)
            self._seen |= {id(p): p for p in getattr(context, "params", None) or ()}
            self.most = max(self.most, sum(p.numel() for p in self._seen.values()))
            return entered

        setattr(deepspeed.zero.GatheredParameters, "__enter__", enter)  # noqa: B010 (its type is another)

    def start(self) -> None:
        """Forget what was seen so far."""
        self.most, self._seen = 0, {}


def main(rank: str, model: str, storage: str) -> None:
    """Both methods, one after the other."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{storage}/meeting", rank=int(rank), world_size=2)
    case = Case(model, ChatFormat(load_tokenizer(model), "Be brief."), Path(storage) / str(dist.get_rank()))
    case.storage.mkdir()
    execution = Execution(workers=2, zero_stage=3, micro_batch_tokens=60)
    resident, told = Resident(), {}
    calm = LORA.model_copy(update={"learning_rate": 1e-3})  # in four layers the usual one makes much of rounding
    for name, settings in (("full", FULL), ("lora", calm)):
        run = case.run(name, settings)
        rows = case.rows_of(run)
        resident.start()
        student = Student(model, settings, execution, run.seed, len(run.plan.steps), case.chat)
        parts = list(student.model.parameters())
        facts = {
            "all": sum(p.ds_numel for p in parts),
            "largest": max(p.ds_numel for p in parts),
            "part": sum(p.ds_tensor.numel() for p in parts),
            "loading": resident.most,
        }
        for slots in run.plan.steps:
            student.step([rows[slot] for slot in slots if slot is not None])
        resident.start()
        weights = student.weights()
        told[name] = facts | {"exporting": resident.most}
        if dist.get_rank() == 0:
            told[name] |= {"furthest": furthest(case.oracle(run)[0], weights)}
        else:
            assert not weights
        student.close()
    everyone: list[Any] = [None, None]
    dist.all_gather_object(everyone, told)
    if dist.get_rank() == 0:
        print(json.dumps(everyone))


if __name__ == "__main__":
    main(*sys.argv[1:])
