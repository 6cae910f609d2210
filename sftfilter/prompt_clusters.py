"""Clusters of prompts by likeness of their texts: k-means on sentence embeddings, kept as an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.carriers.grouping import clustered
from sftfilter.config import Settings, stable_hash
from sftfilter.sentence_encoder import BUILTIN_ENCODER, encoder_hash, resolve_encoder

if TYPE_CHECKING:
    import polars as pl

VERSION = 1
LISTING = "clusters.txt"
"""Beside the table: what `Clusters.lines` says."""
_SHOWN, _CHARS = 3, 70


class Clustering(Settings):
    """How prompts are clustered: all of them, by their texts, on the same embeddings as a carrier search's groups."""

    clusters: Annotated[
        int, Field(ge=2, description="that k-means makes; those that are alike have neighbouring numbers")
    ] = 16
    encoder: Annotated[str, Field(description=f"'{BUILTIN_ENCODER}', or a sentence-transformers folder or hub id")] = (
        BUILTIN_ENCODER
    )
    cluster_seed: Annotated[int, Field(ge=0, description="of k-means")] = 0

    @property
    def clustering(self) -> Clustering:
        """These settings alone."""
        return Clustering.model_validate({name: getattr(self, name) for name in Clustering.model_fields})

    @property
    def key(self) -> str:
        """Equal for selectors that choose from the same clusters."""
        return stable_hash(self.clustering.model_dump(mode="json"))


@dataclass(frozen=True)
class Clusters:
    """What was found.

    Attributes:
        table: prompt_id, cluster (from 1), away (distance to its centre) and text, the nearest to its centre first.
    """

    table: pl.DataFrame

    def lines(self) -> list[str]:
        """For people: each cluster's number, size, and the prompts nearest to its centre, with the first one's id."""
        found = []
        for (number,), rows in self.table.group_by("cluster", maintain_order=True):
            texts = [" ".join(text.split())[:_CHARS] for text in rows["text"].head(_SHOWN)]
            found.append(f"cluster {number}: {len(rows)} prompts, centre {rows['prompt_id'][0]}: {' | '.join(texts)}")
        return found


def cluster_prompts(sources: Sequence[tuple[Artifact, str]], settings: Clustering, store: Store) -> Artifact:
    """Table `clusters` of all prompts in these tables (which have prompt_id and messages), made once."""

    def make(folder: Path) -> dict[str, Any]:
        import numpy as np
        import polars as pl
        import pyarrow as pa

        from sftfilter.sentence_encoder import SentenceEncoder

        known = {
            row["prompt_id"]: row["messages"] for artifact, name in sources for row in artifact.table(name).to_pylist()
        }
        ids = sorted(known)
        texts = ["\n".join(turn["content"] for turn in known[one]) for one in ids]
        vectors = np.asarray(SentenceEncoder(resolve_encoder(settings.encoder)).encode(texts))
        labels = np.array(clustered(vectors, settings.clusters, settings.cluster_seed))
        centres = np.array([vectors[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
        away = np.linalg.norm(vectors - centres[labels], axis=1)
        order = np.lexsort((np.arange(len(ids)), away.round(6), labels))
        columns = {
            "prompt_id": [ids[n] for n in order],
            "cluster": pa.array(labels[order] + 1, pa.int32()),
            "away": away[order].astype(float),
            "text": [texts[n] for n in order],
        }
        table = pa.table(columns)
        write_table(folder, "clusters", table)
        (folder / LISTING).write_text("\n".join(Clusters(pl.DataFrame(table)).lines()) + "\n")
        return {"clusters": int(labels.max()) + 1, "prompts": len(ids)}

    inputs = {f"prompts {n}": artifact.key for n, (artifact, _) in enumerate(sources)}
    inputs["encoder"] = encoder_hash(resolve_encoder(settings.encoder))
    described = settings.clustering.model_dump(mode="json", exclude={"encoder"})
    return store.build("clusters", version=VERSION, settings=described, inputs=inputs, make=make)


def read_clusters(made: Artifact) -> Clusters:
    """Out of the artifact."""
    import polars as pl

    return Clusters(pl.read_parquet(made.path / "clusters.parquet", glob=False))
