"""Stage: rollouts by vLLM on GPUs, through Ray Data's own batch inference. Needs the extra `vllm`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import MachineError
from sftfilter.generated import Drawn, asked, few_missing, generated_table, write_generated

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.generating import VllmTeacher

VERSION = 1
_ERROR = "__inference_error__"


def vllm_config(teacher: VllmTeacher, source: str) -> dict[str, Any]:
    """Arguments of `ray.data.llm.vLLMEngineProcessorConfig`.

    Args:
        source: folder or hub id that every node can read.
    """
    engine: dict[str, Any] = {"tensor_parallel_size": teacher.tensor_parallel, "enable_prefix_caching": True}
    if teacher.max_model_len:
        engine["max_model_len"] = teacher.max_model_len
    return {
        "model_source": source,
        "engine_kwargs": engine | teacher.engine,
        "batch_size": teacher.batch,
        "concurrency": teacher.replicas,
        "should_continue_on_error": True,  # a prompt that cannot be answered costs itself, not its block
        "detokenize_stage": False,  # the engine writes text already
        "log_engine_metrics": False,
    }


def vllm_request(drawn: Drawn, row: dict[str, Any]) -> dict[str, Any]:
    """What the engine gets for one row of `generated.asked`; the row's own columns travel along."""
    sampling: dict[str, Any] = {"temperature": drawn.temperature, "max_tokens": drawn.max_tokens}
    if drawn.top_p is not None:
        sampling["top_p"] = drawn.top_p
    seed = drawn.seed_of(row)
    return {
        "asked_messages": row["messages"],
        "messages": drawn.turns(row),
        "sampling_params": sampling | {"seed": seed},
        "drawn_seed": seed,
    }


def vllm_row(drawn: Drawn, model_hash: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row of `generated_table` from what the engine gave back."""
    if row.get(_ERROR):
        return drawn.failed(row, str(row[_ERROR]))
    reason = "length" if row["num_generated_tokens"] >= drawn.max_tokens else "stop"
    asked_row = {name: row[name] for name in ("prompt_id", "source", "sample")} | {"messages": row["asked_messages"]}
    return drawn.row(asked_row, row["generated_text"], reason, row["drawn_seed"], model_hash, model_hash)


def generate_with_vllm(
    drawn: Drawn,
    teacher: VllmTeacher,
    source: str,
    model_hash: str,
    prompts: Artifact,
    *,
    store: Store,
    error_budget: float,
) -> Artifact:
    """Tables `rollouts` and `quarantine` (prompts without an answer, with the engine's reason).

    Args:
        error_budget: share of the answers that may be missing. Where more are missing of those that an earlier run
            settled for, all prompts are asked again, as engines fail for reasons that pass (memory, a lost GPU).

    Raises:
        MachineError: vLLM is not installed, or the cluster has fewer GPUs than the engines need.
        DataError: too many prompts have no answer.
    """

    def make(folder: Path) -> dict[str, Any]:
        check_vllm(drawn.teacher, teacher)
        table = asked(prompts, teacher.samples)
        batches = _stream(drawn, teacher, source, model_hash, table)
        return write_generated(folder, drawn.teacher, batches, expected=table.num_rows, error_budget=error_budget)

    settings = {
        "teacher": drawn.teacher,
        "kind": teacher.kind,
        "samples": teacher.samples,
        "engine": [teacher.max_model_len, teacher.engine],
        "drawn": [drawn.system_prompt, drawn.temperature, drawn.top_p, drawn.max_tokens, drawn.seed],
    }
    inputs = {"prompts": prompts.key, "model": model_hash}
    return store.build(
        "rollouts",
        version=VERSION,
        settings=settings,
        inputs=inputs,
        make=make,
        final=lambda meta: few_missing(meta, error_budget),
    )


def check_vllm(name: str, teacher: VllmTeacher) -> None:
    """Say what is missing before an engine is waited for that can never start."""
    if importlib.util.find_spec("vllm") is None:
        raise MachineError(
            f"teacher {name}: vLLM is not installed here: pip install 'sftfilter[vllm]' on every node (Linux with GPUs), "
            "or use `kind: model`, which needs neither"
        )
    import ray

    need, have = teacher.replicas * teacher.tensor_parallel, ray.cluster_resources().get("GPU", 0)
    if need > have:
        raise MachineError(
            f"teacher {name}: {teacher.replicas} engines over {teacher.tensor_parallel} GPUs each need {need}, the cluster "
            f"has {have:g}: lower `replicas` or `tensor_parallel`, or use a larger cluster"
        )


def _stream(drawn: Drawn, teacher: VllmTeacher, source: str, model_hash: str, table: pa.Table) -> Iterator[pa.Table]:
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    config = vLLMEngineProcessorConfig(**vllm_config(teacher, source))
    processor = build_processor(config, preprocess=lambda row: vllm_request(drawn, row))
    blocks = max(1, min(table.num_rows, -(-table.num_rows // teacher.batch)))
    answered = processor(ray.data.from_arrow(table).repartition(blocks))
    batches: Any = answered.iter_batches(batch_size=None, batch_format="pyarrow")
    for found in batches:
        yield generated_table([vllm_row(drawn, model_hash, row) for row in found.to_pylist()])
