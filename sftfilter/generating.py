"""Teachers that generate: an endpoint, a checkpoint in transformers, a checkpoint in vLLM."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sftfilter.config import Settings
from sftfilter.endpoint.settings import Endpoint
from sftfilter.generation import Generation
from sftfilter.private import literal_secrets


class Generating(Settings):
    """What teachers that generate have in common."""

    system_prompt: Annotated[
        str | None, Field(description="put before conversations that have none; default: the experiment's; '' for none")
    ] = None
    generation: Annotated[Generation | None, Field(description="default: the experiment's")] = None


class EndpointTeacher(Generating):
    """Any OpenAI-compatible chat endpoint. Answers that arrived are kept in a journal and never paid for twice."""

    kind: Literal["endpoint"]
    endpoint: Endpoint
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    samples: Annotated[int, Field(gt=0, description="answers to each prompt")] = 1


class ModelTeacher(Generating):
    """A transformers checkpoint (a folder or a hub id), spoken to with its own chat template."""

    kind: Literal["model"]
    model: str


class VllmTeacher(Generating):
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

    @field_validator("engine")
    @classmethod
    def _no_remote_code(cls, engine: dict[str, Any]) -> dict[str, Any]:
        if engine.get("trust_remote_code"):
            raise ValueError("trust_remote_code is refused: checkpoints are data here, never code")
        if found := literal_secrets(engine):
            raise ValueError(f"'{found[0]}' looks like a secret written out: set HF_TOKEN on the nodes instead")
        return engine
