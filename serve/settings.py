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
    models_in_memory: Annotated[int, Field(gt=0, description="students a replica holds at once")] = 2
    min_replicas: Annotated[int, Field(gt=0)] = 1
    max_replicas: Annotated[int, Field(gt=0, description="above min_replicas: scale with the requests waiting")] = 1
    max_batch: Annotated[int, Field(gt=0, description="sequences that share a forward pass")] = 64
    batch_wait_s: Annotated[float, Field(ge=0, description="how long a first request waits for company")] = 0.05
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    use_gpu: Annotated[bool, Field(description="one whole GPU per replica")] = False
    threads: Annotated[int | None, Field(gt=0, description="torch threads per replica; default: the node's cores")] = (
        None
    )
    cpus_per_replica: Annotated[float, Field(ge=0)] = 0.5
    max_queued_requests: Annotated[int, Field(gt=0, description="waiting beyond these is answered with 429")] = 1024
    max_tokens_limit: Annotated[int, Field(gt=0, description="new tokens a request may ask for")] = 4096
    request_timeout_s: Annotated[float, Field(gt=0)] = 600
    start_timeout_s: Annotated[float, Field(gt=0, description="give up on an endpoint that is not up by then")] = 300

    @model_validator(mode="after")
    def _ordered(self) -> ServingSettings:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is below min_replicas ({self.min_replicas})")
        return self

    @property
    def ongoing_per_replica(self) -> int:
        """Requests one replica accepts at a time: some running, the rest gathering for the next batches."""
        return 4 * self.max_batch


class HostedModel(Settings):
    """A checkpoint and the id clients ask for it by.

    Attributes:
        model_hash: `sftfilter.models.weights_hash` of the folder; a folder that no longer matches is not served.
        format_hash: hash of the chat format it was trained with.
    """

    id: Annotated[str, Field(min_length=1)]
    folder: str
    model_hash: str
    format_hash: str
