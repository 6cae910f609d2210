"""What holds students in a Serve deployment: many checkpoints, loaded by id on demand.

Serve's multiplexing keeps the checkpoints, evicts the longest unused, and sends requests to replicas that have theirs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ray import serve

from serve.engines import Statistics, Vocabulary, make_engine
from serve.engines.running import collect
from serve.settings import HostedModel, ServingSettings
from serve.work import Answer, Failure, Piece, Work, whole

if TYPE_CHECKING:
    from ray.serve.deployment import Deployment

DEPLOYMENT = "Students"


def student_class(settings: ServingSettings) -> type[Any]:
    """The class of a replica that holds students, made from (models, settings, vocabulary)."""

    class Students:
        """Answers `Work`."""

        def __init__(self, models: Sequence[HostedModel], settings: ServingSettings, vocabulary: Vocabulary) -> None:
            self.engine = make_engine(models, settings, vocabulary, self.weights)  # pyright: ignore[reportArgumentType]

        @serve.multiplexed(max_num_models_per_replica=settings.models_in_memory)
        async def weights(self, copy_id: str) -> Any:  # Serve evaluates no forward references
            return await self.engine.load(copy_id)

        async def generate(self, work: Work) -> list[Answer] | Failure:
            """Whole answers. A cancelled call ends the work between two tokens."""
            pieces = await collect(self.engine.answer(work))
            return pieces if isinstance(pieces, Failure) else whole(len(work.sequences), pieces)

        async def stream(self, work: Work) -> AsyncIterator[list[Piece] | Failure]:
            """Pieces as they are made."""
            async with aclosing(self.engine.answer(work)) as made:  # pyright: ignore[reportArgumentType]
                async for pieces in made:
                    yield pieces

        async def statistics(self) -> Statistics:
            return self.engine.statistics()

        async def process_id(self) -> int:
            return os.getpid()

    return Students


def students(held: type[Any], settings: ServingSettings, **limits: int) -> Deployment:
    """The Serve deployment of such a class.

    Args:
        limits: what Serve lets in and lets wait.
    """
    return serve.deployment(
        name=DEPLOYMENT,
        **limits,
        ray_actor_options={"num_cpus": settings.cpus_per_replica, "num_gpus": 1 if settings.use_gpu else 0},
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=settings.drain_s,
        **_scaling(settings),
    )(held)


def _scaling(settings: ServingSettings) -> dict[str, Any]:
    if settings.max_replicas == settings.min_replicas:
        return {"num_replicas": settings.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.max_batch,
            "upscale_delay_s": 5,
            "downscale_delay_s": settings.downscale_delay_s,
        }
    }
