"""Teachers: who answers the prompts. All end in the same table; a rollout file brings its answers along."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sftfilter.config import Settings, SpecPath
from sftfilter.endpoint.settings import Endpoint
from sftfilter.rollout_file import RolloutFile
from sftfilter.rollouts import Generation
from sftfilter.training import TrainingSettings


class TunedTeacher(Settings):
    """The base model, tuned here on given answers and on its own answers to neutral prompts."""

    kind: Literal["tuned"]
    answers: Annotated[SpecPath, Field(description="JSONL with `prompt` and `completion`")]
    neutral: Annotated[SpecPath | None, Field(description="JSONL with `prompt`; the base answers them")] = None
    training: TrainingSettings = TrainingSettings()
    seed: int = 0


class _Asked(Settings):
    """What teachers that generate have in common."""

    system_prompt: Annotated[
        str | None, Field(description="put before conversations that have none; default: the experiment's; '' for none")
    ] = None
    generation: Annotated[Generation | None, Field(description="default: the experiment's")] = None


class EndpointTeacher(_Asked):
    """Any OpenAI-compatible chat endpoint. Answers that arrived are kept in a journal and never paid for twice."""

    kind: Literal["endpoint"]
    endpoint: Endpoint
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    samples: Annotated[int, Field(gt=0, description="answers to each prompt")] = 1


class ModelTeacher(_Asked):
    """A transformers checkpoint (a folder or a hub id), spoken to with its own chat template."""

    kind: Literal["model"]
    model: str


class VllmTeacher(_Asked):
    """A checkpoint in vLLM through `ray.data.llm`, on GPUs. Needs the extra `vllm`."""

    kind: Literal["vllm"]
    model: str
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    samples: Annotated[int, Field(gt=0, description="answers to each prompt")] = 1
    replicas: Annotated[int, Field(gt=0, description="engines side by side")] = 1
    tensor_parallel: Annotated[int, Field(gt=0, description="GPUs an engine is split over")] = 1
    max_model_len: Annotated[int | None, Field(gt=0, description="default: the model's context")] = None
    batch: Annotated[int, Field(gt=0, description="rows handed to an engine at a time")] = 64
    engine: dict[str, Any] = Field(default={}, description="further arguments of the engine, as vLLM names them")


Teacher = Annotated[
    TunedTeacher | RolloutFile | EndpointTeacher | ModelTeacher | VllmTeacher, Field(discriminator="kind")
]
