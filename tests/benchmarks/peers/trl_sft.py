"""TRL's SFTTrainer on prompt and completion rows, with loss on the completion: SETTINGS, a JSON object.

Run by the peers' own Python, alone or as `torch.distributed.run` starts it. The rate is that of the steps after the
first ones, from the end of one to the end of the last, so data loading counts and start-up does not. It prints a line
of JSON from the first process.
"""

import json
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """When each step ended, and the CPU seconds of this process by then."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    torch.set_num_threads(wanted["threads"])
    with open(wanted["rows"]) as file:
        rows = [json.loads(line) for line in file]
    model = AutoModelForCausalLM.from_pretrained(
        wanted["model"], dtype=getattr(torch, wanted["weights"]), attn_implementation=wanted["attention"]
    )
    model.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(wanted["model"])
    adapter = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                use_cpu=True,
                ddp_backend="gloo" if wanted["workers"] > 1 else None,
                bf16=wanted["autocast"],
                per_device_train_batch_size=wanted["batch"] // wanted["workers"] // wanted["halves"],
                gradient_accumulation_steps=wanted["halves"],
                max_steps=wanted["steps"],
                learning_rate=5e-4,
                lr_scheduler_type="linear",
                optim="adamw_torch_fused",
                gradient_checkpointing=False,
                completion_only_loss=True,
                padding_free=wanted["padding_free"],
                train_sampling_strategy="random" if wanted["padding_free"] else "group_by_length",
                max_length=None if wanted["padding_free"] else 2048,
                dataloader_num_workers=0,  # rows are tokenised beforehand, and the cores are busy
                dataloader_pin_memory=False,
                logging_steps=10**6,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=adapter if wanted["method"] == "lora" else None,
            callbacks=[clock],
        )
        began = time.perf_counter()
        trainer.train()
    if trainer.is_world_process_zero():
        timed = len(clock.ends) - wanted["warm"]
        seconds = clock.ends[-1] - clock.ends[wanted["warm"] - 1]
        cpu = clock.cpu[-1] - clock.cpu[wanted["warm"] - 1]
        told = {"rows": timed * wanted["batch"], "seconds": seconds, "cpu_s": cpu, "first_s": clock.ends[0] - began}
        print(json.dumps(told))
