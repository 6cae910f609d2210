"""Groups of prompts that a search tests together: by fields of the prompt, by likeness of their texts, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.carriers.search import Group
from sftfilter.config import Settings
from sftfilter.errors import DataError
from sftfilter.sentence_encoder import BUILTIN_ENCODER, encoder_hash, resolve_encoder

if TYPE_CHECKING:
    import numpy as np

VERSION = 1


class Grouping(Settings):
    """How prompts are grouped: by fields, and within these by k-means on sentence embeddings of their texts."""

    by: Annotated[
        list[Literal["kind", "source"]], Field(description="fields of the prompts; none: all prompts are clustered")
    ] = Field(default=[])
    clusters: Annotated[
        int | None, Field(ge=1, description="in all, shared out over the fields' values by size; null: fields alone")
    ] = 16
    encoder: Annotated[str, Field(description=f"'{BUILTIN_ENCODER}', or a sentence-transformers folder or hub id")] = (
        BUILTIN_ENCODER
    )
    seed: Annotated[int, Field(ge=0, description="of k-means")] = 0

    @model_validator(mode="after")
    def _something(self) -> Grouping:
        if self.clusters is None and not self.by:
            raise ValueError("clusters: with null and no field in `by` there is nothing to group prompts by")
        if len(self.by) != len(set(self.by)):
            raise ValueError("by: a field is listed twice")
        return self


def group_prompts(prompts: Artifact, settings: Grouping, store: Store) -> tuple[Artifact, list[Group]]:
    """Table `groups` (prompt_id, group), and the groups in an order in which neighbours are alike.

    Args:
        prompts: with table `prompts`.

    Raises:
        DataError: all prompts are of one group, so that there is nothing to search.
    """

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        rows = prompts.table("prompts").to_pylist()
        vectors = None
        if settings.clusters is not None:
            from sftfilter.sentence_encoder import SentenceEncoder

            texts = ["\n".join(turn["content"] for turn in row["messages"]) for row in rows]
            vectors = SentenceEncoder(resolve_encoder(settings.encoder)).encode(texts)
        fields = [{name: row[name] for name in settings.by} for row in rows]
        groups = parted([row["prompt_id"] for row in rows], fields, vectors, settings.clusters, settings.seed)
        pairs = [(prompt, group.name) for group in groups for prompt in group.prompts]
        table = pa.table({"prompt_id": [p for p, _ in pairs], "group": [g for _, g in pairs]})
        write_table(folder, "groups", table)
        return {"groups": len(groups), "prompts": len(pairs)}

    inputs = {"prompts": prompts.key}
    if settings.clusters is not None:
        inputs["encoder"] = encoder_hash(resolve_encoder(settings.encoder))
    described = settings.model_dump(mode="json", exclude={"encoder"})
    made = store.build("groups", version=VERSION, settings=described, inputs=inputs, make=make)
    held: dict[str, list[str]] = {}
    for row in made.table("groups").to_pylist():
        held.setdefault(row["group"], []).append(row["prompt_id"])
    if len(held) < 2:
        raise DataError(
            f"groups: all {sum(map(len, held.values()))} prompts are of one group, '{next(iter(held), '')}', so there is "
            "nothing to search; name other fields in `groups.by`, or raise `groups.clusters`"
        )
    return made, [Group(name, tuple(ids)) for name, ids in held.items()]


def parted(
    ids: Sequence[str],
    fields: Sequence[Mapping[str, str | None]],
    vectors: np.ndarray | None,
    clusters: int | None,
    seed: int,
) -> list[Group]:
    """Groups by equal fields, each cut into clusters in proportion to its size, at least one.

    Args:
        ids, fields, vectors: of each prompt; vectors are [N, D] or None.
    """
    cells: dict[str, list[int]] = {}
    for place, known in enumerate(fields):
        cells.setdefault(", ".join(f"{name} {value or 'none'}" for name, value in known.items()), []).append(place)
    groups = []
    for name, places in sorted(cells.items()):
        count = 1 if clusters is None else max(1, round(clusters * len(places) / len(ids)))
        labels = [0] * len(places) if vectors is None or count == 1 else clustered(vectors[places], count, seed)
        many = len(set(labels)) > 1
        for label in sorted(set(labels)):
            inside = tuple(ids[p] for p, own in zip(places, labels, strict=True) if own == label)
            number = f"cluster {label + 1}" if many or not name else ""
            groups.append(Group(", ".join(filter(None, (name, number))), inside))
    return groups


def clustered(vectors: np.ndarray, count: int, seed: int) -> list[int]:
    """Cluster of each vector by k-means; clusters whose centres are alike have neighbouring numbers."""
    import numpy as np
    from scipy.cluster.hierarchy import leaves_list, linkage
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(vectors, axis=0)))
    if count < 2:
        return [0] * len(vectors)
    found = KMeans(count, n_init="auto", random_state=seed).fit(vectors)
    order = leaves_list(linkage(found.cluster_centers_, "ward", optimal_ordering=True))
    return np.argsort(order)[found.labels_].tolist()
