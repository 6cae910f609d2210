"""What an endpoint is told: how to serve, and which checkpoints. Imports neither ray nor torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sftfilter.config import Settings

API_KEY_VARIABLE = "SFTFILTER_API_KEY"
"""Where launchers and clients look for the bearer token; the endpoint itself is handed it by its caller."""


class ServingSettings(Settings):
    """How students are served."""

    host: Annotated[str, Field(description="address the HTTP proxy binds")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="0 picks a free one")] = 8123
    engine: Annotated[
        Literal["transformers", "vllm", "null"],
        Field(description="what computes; `null` answers at once with nothing, to measure everything else"),
    ] = "transformers"
    models_in_memory: Annotated[
        int, Field(gt=0, description="full checkpoints a replica holds at once; a base with all its adapters is one")
    ] = 2
    adapters_in_memory: Annotated[int, Field(gt=0, description="LoRA students a replica holds beside their base")] = 32
    share_base: Annotated[
        bool, Field(description="serve LoRA students from one copy of their base, where the endpoint knows it")
    ] = True
    cache_gib: Annotated[float, Field(gt=0, description="keys and values of what a checkpoint is writing")] = 2.0
    min_replicas: Annotated[int, Field(ge=0, description="0: none while nobody asks")] = 1
    max_replicas: Annotated[int, Field(gt=0, description="above min_replicas: scale with the requests waiting")] = 1
    downscale_delay_s: Annotated[float, Field(gt=0, description="how long less load must last")] = 600
    max_batch: Annotated[int, Field(gt=0, description="sequences that share a forward pass")] = 64
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        Field(description="auto: bfloat16 where the hardware multiplies it, otherwise float32"),
    ] = "auto"
    use_gpu: Annotated[bool, Field(description="one whole GPU per replica")] = False
    threads: Annotated[int | None, Field(gt=0, description="torch threads per replica; default: the node's cores")] = (
        None
    )
    cpus_per_replica: Annotated[float, Field(ge=0)] = 0.5
    max_queued_requests: Annotated[int, Field(gt=0, description="waiting beyond these is answered with 429")] = 1024
    requests_per_minute: Annotated[int | None, Field(gt=0, description="for each token; default: no limit")] = None
    max_tokens_limit: Annotated[int, Field(gt=0, description="new tokens a request may ask for")] = 4096
    request_timeout_s: Annotated[float, Field(gt=0)] = 600
    body_timeout_s: Annotated[float, Field(gt=0, description="for a client to send its request")] = 30
    drain_s: Annotated[float, Field(gt=0, description="for a replica that is replaced to finish its requests")] = 30
    start_timeout_s: Annotated[float, Field(gt=0, description="give up on an endpoint that is not up by then")] = 300

    @model_validator(mode="after")
    def _ordered(self) -> ServingSettings:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is below min_replicas ({self.min_replicas})")
        return self

    @property
    def ongoing_per_replica(self) -> int:
        """Requests one replica accepts at a time: some running, the rest ready to take the place of those that end."""
        return 4 * self.max_batch

    @property
    def lone_replica(self) -> bool:
        """There is one replica, always: it answers HTTP itself, and no request takes a second hop."""
        return self.min_replicas == self.max_replicas == 1


class Adapter(Settings):
    """A LoRA adapter beside the merged weights, and the base it was trained on.

    Attributes:
        folder: None is the base itself.
        file_hash: `sftfilter.config.file_hash` of its weights; a file that no longer matches is not served.
        base_hash: `sftfilter.models.weights_hash` of `base_folder`.
    """

    folder: str | None
    file_hash: str | None = None
    base_folder: str
    base_hash: str


class HostedModel(Settings):
    """A checkpoint and the id clients ask for it by.

    Attributes:
        model_hash: `sftfilter.models.weights_hash` of the folder; a folder that no longer matches is not served.
        format_hash: hash of the chat format it was trained with.
        adapter: how to serve it from a base that others share; None serves the folder's own weights.
    """

    id: Annotated[str, Field(min_length=1)]
    folder: str
    model_hash: str
    format_hash: str
    adapter: Adapter | None = None

    @property
    def copy_id(self) -> str:
        """What has to be in memory to answer: the model's own weights, or the base that its adapter sits on."""
        return f"base-{self.adapter.base_hash}" if self.adapter else self.id


class EndpointConfig(Settings):
    """An endpoint as its replicas get it, and as `serve deploy` does. Holds digests in place of tokens.

    Attributes:
        name: the Serve application, and the first part of the path.
        key_digests: `serve.guard.digest` of each bearer token; none serves without.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    models: Annotated[list[HostedModel], Field(min_length=1)]
    settings: ServingSettings
    tokenizer_folder: str
    system_prompt: str | None = None
    key_digests: list[str] = Field(default=[])

    @model_validator(mode="after")
    def _distinct(self) -> EndpointConfig:
        ids = [model.id for model in self.models]
        if len(set(ids)) < len(ids):
            raise ValueError("an endpoint needs every id once; got: " + ", ".join(ids))
        return self
