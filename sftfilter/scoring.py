"""Stage: scores. Rollouts stream through filter actors of Ray Data; one row in, one row out, nothing is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sftfilter.artifacts import Artifact, Store
from sftfilter.config import Settings
from sftfilter.errors import DataError
from sftfilter.schema import SCORES

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.scorers import Scorer

VERSION = 1


class ScoringPool(Settings):
    """The pool of filter actors."""

    min_actors: Annotated[int, Field(gt=0)] = 1
    max_actors: Annotated[int, Field(gt=0)] = 2
    cpus_per_actor: Annotated[float, Field(gt=0, description="leave CPUs free for reading and writing")] = 0.5
    batch: Annotated[int, Field(gt=0)] = 4096


class FilterActor:
    """Ray Data actor: scores a batch. A row that cannot be scored gets an error, never a zero."""

    def __init__(self, name: str, scorer: Scorer) -> None:
        self.name = name
        self.fingerprint = scorer.fingerprint()
        self.scorer = scorer.load()

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        scores = self.scorer.score(batch["completion"])
        missing = pc.is_null(scores)  # pyright: ignore[reportAttributeAccessIssue]
        error = pc.if_else(missing, pa.scalar("no completion to score"), pa.scalar(None, pa.string()))  # pyright: ignore[reportAttributeAccessIssue]
        n = batch.num_rows
        columns = {
            "rollout_id": batch["rollout_id"],
            "scorer": pa.array([self.name] * n),
            "score": scores,
            "error": error,
            "detail": pa.nulls(n, pa.string()),
            "fingerprint": pa.array([self.fingerprint] * n),
        }
        return pa.table(columns).cast(SCORES)


def score_rollouts(name: str, scorer: Scorer, rollouts: Artifact, *, store: Store, pool: ScoringPool) -> Artifact:
    """Table `scores`, a row for each rollout."""

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow.parquet as pq
        import ray.data

        source = rollouts.path / "rollouts.parquet"
        (
            ray.data.read_parquet(str(source), columns=["rollout_id", "completion"])
            .map_batches(
                FilterActor,
                fn_constructor_args=(name, scorer),
                batch_size=pool.batch,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
                num_cpus=pool.cpus_per_actor,
            )
            .write_parquet(str(folder / "scores.parquet"))
        )
        scores = pq.read_table(folder / "scores.parquet")
        expected = pq.read_metadata(source).num_rows
        if scores.num_rows != expected:
            raise DataError(f"scorer {name}: {expected} rollouts went in, {scores.num_rows} scores came out")
        return {"rows": expected, "errors": expected - scores["error"].null_count}

    settings = {"scorer": scorer.model_dump(mode="json"), "fingerprint": scorer.fingerprint(), "name": name}
    return store.build("scores", version=VERSION, settings=settings, inputs={"rollouts": rollouts.key}, make=make)
