"""Exact and near duplicates among prompts and among completions, and which splits, teachers and sources they span.

MinHash with banding proposes pairs, their true Jaccard similarity decides, and whatever hangs together is a cluster
(Lee et al. 2022, arXiv 2107.06499, do the same to pre-training text). Exact duplicates, texts that are equal but for
case, width and white space, are collapsed first, so that a thousand copies cost no more than one.

Memory on the driver: for each distinct text about 8 bytes a band (25 at the default threshold) and 100 more, and the
text itself of those that a band proposes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import Settings

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from sftfilter.guards.texts import Side, Texts

VERSION = 1
_PAIRS = 50_000
"""Pairs that are compared at a time."""
_SHOWN = 200
"""Characters of a text that are quoted."""


class Duplicates(Settings):
    """When two texts are near duplicates. Pipelines for long web pages take 5 words; chat turns are short."""

    unit: Annotated[Literal["word", "character"], Field(description="what a shingle is made of")] = "word"
    n: Annotated[int, Field(gt=0, description="words or characters of a shingle")] = 3
    threshold: Annotated[float, Field(gt=0, le=1, description="Jaccard similarity of the sets of shingles")] = 0.7
    prompts: bool = True
    completions: bool = True


def find_duplicates(settings: Duplicates, texts: Sequence[Texts], store: Store) -> Artifact:
    """Tables `members` and `clusters`.

    members: cluster, side, kind (`first` of the cluster, `exact` copy of an earlier member, or `near`), jaccard (the
        highest with a member that it was compared with; 1 where there are exact copies), split, teacher, source, id.
    clusters: cluster, side, rows, distinct (texts), the splits, teachers and sources that it spans (lists), and the
        example, how its first text begins; the largest first.
    """
    sides: list[Side] = [s for s in ("prompt", "completion") if getattr(settings, f"{s}s")]
    used = [t for t in texts if t.side in sides]

    def make(folder: Path) -> dict[str, Any]:
        import polars as pl

        meta: dict[str, int] = {}
        found: list[pl.DataFrame] = []
        examples: list[pl.Series] = []
        for side in sides:
            mine = [t for t in used if t.side == side]
            rows = _signed(mine, settings)
            members = _members(rows, mine, settings)
            begin = sum(part["cluster"].n_unique() for part in found)
            firsts = members.filter(pl.col("kind") == "first")
            examples.append(pl.Series(_contents(firsts, mine), dtype=pl.String).str.slice(0, _SHOWN))
            found.append(members.with_columns(pl.col("cluster") + begin, pl.lit(side).alias("side")))
            meta |= _counts(side, rows, members)
        table = pl.concat(found).select("cluster", "side", "kind", "jaccard", "split", "teacher", "source", "id")
        write_table(folder, "members", table.to_arrow())
        write_table(folder, "clusters", _spans(table, pl.concat(examples)).to_arrow())
        return meta

    return store.build(
        "duplicates",
        version=VERSION,
        settings=[settings.model_dump(mode="json"), [t.name for t in used]],
        inputs={f"text {i}": t.key for i, t in enumerate(used)},
        make=make,
    )


def _signed(texts: Sequence[Texts], settings: Duplicates) -> pl.DataFrame:
    """A row for each text, in an order that does not depend on who was first; a prompt in several tables counts once."""
    import polars as pl

    from sftfilter.guards.minhash import bands_for, sign
    from sftfilter.guards.texts import stream

    count, _ = bands_for(settings.threshold)
    schema = {"id": pl.String, "source": pl.String, "digest": pl.Binary, "bands": pl.Array(pl.UInt64, count)}
    parts = [pl.DataFrame(schema=schema).with_columns(_labels("", "", 0))]
    for number, table in enumerate(texts):
        work = partial(sign, texts=table, unit=settings.unit, n=settings.n, threshold=settings.threshold)
        for made in stream(table.path, table.columns, work):
            frame = pl.DataFrame(made).cast(schema)  # pyright: ignore[reportArgumentType]
            parts.append(frame.with_columns(_labels(table.split, table.teacher, number)))
    return pl.concat(parts).sort("table", "id").unique(["split", "id"], keep="first", maintain_order=True)


def _labels(split: str, teacher: str, table: int) -> list[pl.Expr]:
    import polars as pl

    return [
        pl.lit(split).alias("split"),
        pl.lit(teacher).alias("teacher"),
        pl.lit(table, pl.Int64).alias("table"),
    ]


def _members(rows: pl.DataFrame, texts: Sequence[Texts], settings: Duplicates) -> pl.DataFrame:
    """The rows that are in a cluster of two or more, by cluster, with cluster, kind and jaccard."""
    import polars as pl
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = rows.with_row_index("row").with_columns(pl.col("row").min().over("digest").alias("copy_of"))
    distinct = rows.filter(pl.col("row") == pl.col("copy_of"))
    pairs = _near_pairs(distinct, texts, settings)
    links = (np.ones(len(pairs)), (pairs["first"].to_numpy(), pairs["second"].to_numpy()))
    _, labels = connected_components(coo_matrix(links, shape=(len(distinct),) * 2), directed=False)
    both = pl.concat([pairs.select(pl.col(end).alias("text"), "jaccard") for end in ("first", "second")])
    nearest = both.group_by("text").agg(pl.col("jaccard").max())
    numbered = distinct.select(pl.col("row").alias("copy_of")).with_columns(pl.Series("label", labels, dtype=pl.Int64))
    numbered = numbered.with_row_index("text").with_columns(pl.col("text").cast(pl.Int64))
    numbered = numbered.join(nearest, on="text", how="left").select("copy_of", "label", "jaccard")
    joined = rows.drop("bands").join(numbered, on="copy_of").sort("row")
    joined = joined.filter(pl.len().over("label") > 1).with_columns(pl.col("row").min().over("label").alias("begin"))
    copies = pl.len().over("copy_of") > 1
    return joined.sort("begin", "row").with_columns(
        (pl.col("begin").rank("dense") - 1).cast(pl.Int64).alias("cluster"),
        pl.when(copies).then(1.0).otherwise(pl.col("jaccard")).alias("jaccard"),
        pl.when(pl.col("row") == pl.col("begin"))
        .then(pl.lit("first"))
        .when(pl.col("row") != pl.col("copy_of"))
        .then(pl.lit("exact"))
        .otherwise(pl.lit("near"))
        .alias("kind"),
    )


def _near_pairs(distinct: pl.DataFrame, texts: Sequence[Texts], settings: Duplicates) -> pl.DataFrame:
    """Columns first, second (rows of `distinct`) and jaccard, of the pairs at the threshold or above."""
    import polars as pl
    import pyarrow as pa

    from sftfilter.guards.minhash import candidates

    signed = np.flatnonzero(distinct["bands"].is_not_null().to_numpy())
    none = pl.DataFrame(schema={"first": pl.Int64, "second": pl.Int64, "jaccard": pl.Float64})
    if len(signed) < 2:
        return none
    bands = distinct["bands"].drop_nulls().explode().to_numpy().reshape(len(signed), -1)
    pairs = signed[candidates(bands)]
    if not len(pairs):
        return none
    used, places = np.unique(pairs, return_inverse=True)
    contents = _contents(distinct[used], texts)
    places = places.reshape(-1, 2)
    compared = _compare(pa.table({"first": places[:, 0], "second": places[:, 1]}), contents, settings)
    return pl.DataFrame(
        {"first": pairs[:, 0], "second": pairs[:, 1], "jaccard": compared["jaccard"].to_numpy()}
    ).filter(pl.col("jaccard") >= settings.threshold)


def _contents(wanted: pl.DataFrame, texts: Sequence[Texts]) -> pa.Array:
    """Canonical texts of these rows, read again: only those that a band proposed are ever held."""
    import polars as pl

    from sftfilter.guards.texts import canonical_rows, stream

    parts: list[pl.DataFrame] = []
    for number, table in enumerate(texts):
        ids = wanted.filter(pl.col("table") == number)["id"].to_arrow()
        if len(ids):
            work = partial(canonical_rows, texts=table, ids=ids)
            parts += [pl.DataFrame(made).with_columns(pl.lit(number, pl.Int64).alias("table"))
                      for made in stream(table.path, table.columns, work)]  # fmt: skip
    if not parts:
        return pl.Series("text", [], dtype=pl.String).to_arrow()
    read = pl.concat(parts).unique(["table", "id"])
    return (
        wanted.select("table", "id")
        .join(read, on=["table", "id"], how="left", maintain_order="left")["text"]
        .to_arrow()
    )


def _compare(pairs: pa.Table, contents: pa.Array, settings: Duplicates) -> pa.Table:
    """The pairs in their order, with `jaccard`; more than a few are compared by Ray tasks."""
    import pyarrow as pa

    from sftfilter.guards.minhash import jaccard

    if pairs.num_rows <= _PAIRS:
        return jaccard(pairs, contents, settings.unit, settings.n)
    import ray

    held = ray.put(contents)
    task = ray.remote(num_cpus=0.5)(jaccard)
    chunks = [pairs.slice(start, _PAIRS) for start in range(0, pairs.num_rows, _PAIRS)]
    return pa.concat_tables(ray.get([task.remote(chunk, held, settings.unit, settings.n) for chunk in chunks]))


def _spans(members: pl.DataFrame, examples: pl.Series) -> pl.DataFrame:
    import polars as pl

    spans = [pl.col(name).unique().sort().alias(f"{name}s") for name in ("split", "teacher", "source")]
    distinct = (pl.col("kind") != "exact").sum().alias("distinct")
    clusters = members.group_by("cluster", "side").agg(pl.len().alias("rows"), distinct, *spans).sort("cluster")
    return clusters.with_columns(examples.alias("example")).sort("rows", "cluster", descending=[True, False])


def _counts(side: Side, rows: pl.DataFrame, members: pl.DataFrame) -> dict[str, int]:
    """Rows that are the first of their kind, exact copies and near copies: they add up to all of them."""
    kinds = dict(members.group_by("kind").len().iter_rows())
    exact, near = kinds.get("exact", 0), kinds.get("near", 0)
    counts = {"rows": len(rows), "exact": exact, "near": near, "clusters": members["cluster"].n_unique()}
    return {f"{side}_{name}": count for name, count in counts.items()}
