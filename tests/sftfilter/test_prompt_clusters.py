"""Clusters of prompts as a subset: the same each time, kept, and chosen by number, centre or prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import DataError
from sftfilter.prompt_clusters import LISTING, Clustering, cluster_prompts, read_clusters
from sftfilter.score_frame import ScoreFrame, score_frame
from sftfilter.selectors import select
from sftfilter.selectors.by_cluster import Cluster

COOKING = [f"How long do I cook {what} in the oven?" for what in ("a chicken", "potatoes", "bread", "a cake", "fish")]
CODING = [f"How do I sort {what} in Python?" for what in ("a list", "a dict", "a string", "an array", "a dataframe")]
TEXTS = {f"p{n}": text for n, text in enumerate(t for pair in zip(COOKING, CODING, strict=True) for t in pair)}


@pytest.fixture
def prompts(tmp_path: Path) -> tuple[Artifact, Store]:
    store = Store(tmp_path / "artifacts")

    def make(folder: Path) -> dict[str, Any]:
        rows = [
            {"prompt_id": one, "rollout_id": f"r{one}", "messages": [{"role": "user", "content": text}], "kind": "k"}
            | {"source": "s", "completion": "yes"}
            for one, text in TEXTS.items()
        ]
        write_table(folder, "rollouts", pa.Table.from_pylist(rows))
        return {"rows": len(rows)}

    return store.build("rollouts", version=1, settings={}, inputs={}, make=make), store


def _frame(made: Artifact, rows: Artifact) -> ScoreFrame:
    import polars as pl

    frame = score_frame({"T": pl.scan_parquet(rows.path / "rollouts.parquet")}, {})
    return replace(frame, clusters={Clustering(clusters=2).key: read_clusters(made)})


def _taken(frame: ScoreFrame, **how: Any) -> set[str]:
    one = Cluster(kind="cluster", clusters=2, **how)
    chosen = select("S", {"S": one}, frame.pool("T"), 0).prompts
    return {prompt for prompt, inside in zip(frame.prompt_ids, chosen, strict=True) if inside}


@pytest.mark.model
def test_prompts_that_are_alike_are_one_subset_however_it_is_named(prompts: tuple[Artifact, Store]) -> None:
    rows, store = prompts
    made = cluster_prompts([(rows, "rollouts")], Clustering(clusters=2), store)
    frame = _frame(made, rows)
    cooking = {one for one, text in TEXTS.items() if text in COOKING}
    assert _taken(frame, holds=["p0", "p4"]) == cooking
    found = read_clusters(made)
    number = found.table.filter(found.table["prompt_id"] == "p0")["cluster"][0]
    assert _taken(frame, number=number) == cooking and _taken(frame, number=3 - number) == {*TEXTS} - cooking
    centre = found.table.filter(found.table["cluster"] == number)["prompt_id"][0]
    assert _taken(frame, centre=centre) == cooking
    line = next(line for line in found.lines() if line.startswith(f"cluster {number}:"))
    assert f"5 prompts, centre {centre}: {TEXTS[centre]} | " in line
    assert (made.path / LISTING).read_text().splitlines() == found.lines()
    other = next(one for one in sorted(cooking) if one != centre)
    for how, why in (
        ({"number": 3}, "no cluster 3; there are:\n  cluster 1: 5 prompts"),
        ({"holds": ["p0", "p1"]}, r"lie in several clusters \(1, 2\)"),
        ({"holds": ["q"]}, "no prompt has id q"),
        ({"centre": other}, f"prompt {other} is not the centre of its cluster {number}, which is {centre}"),
    ):
        with pytest.raises(DataError, match=why):
            _taken(frame, **how)
    again = cluster_prompts([(rows, "rollouts")], Clustering(clusters=2), Store(store.root.parent / "elsewhere"))
    assert read_clusters(again).table.equals(found.table)
    assert cluster_prompts([(rows, "rollouts")], Clustering(clusters=2), store).reused


def test_a_cluster_is_named_in_one_way_and_needs_clusters(tmp_path: Path) -> None:
    for how in ({}, {"number": 1, "centre": "p"}):
        with pytest.raises(ValidationError, match="say which cluster by one of"):
            Cluster(kind="cluster", **how)
    import polars as pl

    rows = {"prompt_id": ["p"], "rollout_id": ["r"], "kind": ["k"], "source": ["s"], "completion": ["c"]}
    frame = score_frame({"T": pl.DataFrame(rows).lazy()}, {})
    with pytest.raises(DataError, match="selector S: the prompts were not clustered"):
        _taken(frame, number=1)
    # The number of a cluster is none of the clustering: selectors of one clustering share it.
    assert Cluster(kind="cluster", number=1).key == Cluster(kind="cluster", number=2).key == Clustering().key
