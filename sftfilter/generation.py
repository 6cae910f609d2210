"""How teachers answer, and on what: settings that every way of generating shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sftfilter.config import Settings


class Generation(Settings):
    """How teachers answer. `actors`, `batch` and the like change speed only."""

    max_new_tokens: Annotated[int, Field(gt=0)] = 24
    temperature: Annotated[float, Field(ge=0)] = 0.8
    seed: int = 0


class Pool(Settings):
    """A pool of Ray Data actors that each hold a model."""

    min_actors: Annotated[int, Field(gt=0)] = 1
    max_actors: Annotated[int, Field(gt=0)] = 1
    cpus_per_actor: Annotated[float, Field(gt=0, description="leave CPUs free for reading and writing")] = 0.5
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0
    threads: Annotated[int | None, Field(gt=0, description="torch threads; default: the node's cores")] = None
    batch: Annotated[int, Field(gt=0, description="sequences a forward pass holds")] = 64
