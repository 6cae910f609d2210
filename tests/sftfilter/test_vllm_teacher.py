"""vLLM cannot run here: what it would be told is fixed by these tests, and its absence is said with the remedy."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from sftfilter import vllm_teacher
from sftfilter.artifacts import Store, write_table
from sftfilter.errors import DataError, MachineError
from sftfilter.generated import Drawn, asked, generated_table
from sftfilter.generating import VllmTeacher
from sftfilter.schema import PROMPTS, row_seed
from sftfilter.vllm_teacher import generate_with_vllm, vllm_config, vllm_request, vllm_row

DRAWN = Drawn("T", "Be brief.", 0.7, 0.9, 16, 3)
TEACHER = VllmTeacher(kind="vllm", model="org/model", tensor_parallel=2, replicas=3, engine={"max_num_seqs": 128})
ROW = {"prompt_id": "p1", "messages": [{"role": "user", "content": "Hi"}], "source": "file", "sample": 1}


def test_the_engine_is_configured_as_written() -> None:
    config = vllm_config(TEACHER.model_copy(update={"max_model_len": 2048}), "/models/m")
    assert config == {
        "model_source": "/models/m",
        "engine_kwargs": {
            "tensor_parallel_size": 2,
            "enable_prefix_caching": True,
            "max_model_len": 2048,
            "max_num_seqs": 128,
        },
        "batch_size": 64,
        "concurrency": 3,
        "should_continue_on_error": True,
        "detokenize_stage": False,
        "log_engine_metrics": False,
    }


@pytest.mark.ray
def test_ray_takes_the_configuration() -> None:
    from ray.data.llm import vLLMEngineProcessorConfig

    known = vLLMEngineProcessorConfig(**vllm_config(TEACHER, "org/model"))
    assert known.model_source == "org/model" and known.should_continue_on_error


def test_requests_and_answers() -> None:
    request = vllm_request(DRAWN, ROW)
    seed = row_seed(3, "p1/1") % 2**31
    assert request == {
        "asked_messages": ROW["messages"],
        "messages": [{"role": "system", "content": "Be brief."}, *ROW["messages"]],
        "sampling_params": {"temperature": 0.7, "max_tokens": 16, "top_p": 0.9, "seed": seed},
        "drawn_seed": seed,
    }
    back = ROW | request | {"generated_text": "Hello", "num_generated_tokens": 16, "__inference_error__": ""}
    table = generated_table(
        [
            vllm_row(DRAWN, "hash", back),
            vllm_row(DRAWN, "hash", back | {"generated_text": " ", "num_generated_tokens": 1}),
            vllm_row(DRAWN, "hash", back | {"__inference_error__": "prompt too long"}),
        ]
    )
    good, empty, failed = table.to_pylist()
    assert good["problem"] is None and good["completion"] == "Hello" and good["finish_reason"] == "length"
    assert good["messages"] == ROW["messages"], "the system turn is not part of the prompt"
    assert good["generation"] == {
        "model_hash": "hash",
        "system_prompt": "Be brief.",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 16,
        "seed": seed,
        "sample": 1,
    }
    assert empty["problem"] == "T answered nothing (it ended by stop)"
    assert failed["problem"] == "T: prompt too long" and failed["prompt_id"] == "p1"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_remedy_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def make(folder: Path) -> dict[str, int]:
        write_table(folder, "prompts", pa.Table.from_pylist([{**ROW, "kind": "x"}], PROMPTS))
        return {}

    prompts = store.build("prompts", version=1, settings=1, inputs={}, make=make)
    assert asked(prompts, 3)["sample"].to_pylist() == [0, 1, 2]
    with pytest.raises(MachineError, match=r"teacher T: vLLM is not installed here: pip install 'sftfilter\[vllm\]'"):
        generate_with_vllm(DRAWN, TEACHER, "m", "hash", prompts, store=store, error_budget=0)
    assert not list(tmp_path.glob("rollouts-*"))


def test_a_lower_budget_asks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is left out, as it needs GPUs: its answers are made up, with errors at first."""
    store, failing = Store(tmp_path), 4

    def make(folder: Path) -> dict[str, int]:
        rows = [{**ROW, "prompt_id": f"p{n}", "kind": "x"} for n in range(10)]
        write_table(folder, "prompts", pa.Table.from_pylist(rows, PROMPTS))
        return {}

    def engine(drawn: Drawn, teacher: VllmTeacher, source: str, model_hash: str, table: pa.Table) -> Iterator[pa.Table]:
        back = {"generated_text": "Hello", "num_generated_tokens": 1}
        for number, row in enumerate(table.to_pylist()):
            error = {"__inference_error__": "out of memory" if number < failing else ""}
            yield generated_table([vllm_row(drawn, model_hash, row | vllm_request(drawn, row) | back | error)])

    monkeypatch.setattr(vllm_teacher, "check_vllm", lambda *_: None)
    monkeypatch.setattr(vllm_teacher, "_stream", engine)
    prompts = store.build("prompts", version=1, settings=1, inputs={}, make=make)
    given: dict[str, Any] = {"store": store}
    first = generate_with_vllm(DRAWN, TEACHER, "m", "hash", prompts, error_budget=0.5, **given)
    assert first.meta["used"] == 6
    with pytest.raises(DataError, match=r"4 of 10 answers are missing, more than error_budget 0\.01"):
        generate_with_vllm(DRAWN, TEACHER, "m", "hash", prompts, error_budget=0.01, **given)
    failing = 0
    assert generate_with_vllm(DRAWN, TEACHER, "m", "hash", prompts, error_budget=0.01, **given).meta["used"] == 10
    assert generate_with_vllm(DRAWN, TEACHER, "m", "hash", prompts, error_budget=0.5, **given).key == first.key


def test_remote_code_is_refused() -> None:
    with pytest.raises(ValidationError, match="trust_remote_code is refused"):
        VllmTeacher(kind="vllm", model="m", engine={"trust_remote_code": True})
