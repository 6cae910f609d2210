"""Duplicates: planted ones, the same clusters as brute force, and the spans."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.guards import Duplicates, Guards, run_guards
from sftfilter.guards.duplicates import find_duplicates
from sftfilter.guards.minhash import bands_for, candidates, jaccard
from sftfilter.guards.texts import completion_texts
from sftfilter.guards.tokens import canonical, words
from sftfilter.schema import ROLLOUTS

STORY = (
    "Once upon a time a small fox lived beside the old mill and watched the miller carry his flour to town every day."
)
NEAR = STORY.replace("every day", "each day")
OTHER = (
    "Boil the pasta in plenty of salted water until it is firm to the bite, then drain it and toss it with the sauce."
)
WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "rst"]


def test_planted_duplicates_and_what_they_span(
    prompts: Callable[..., Artifact], rollouts: Callable[..., Artifact], store: Store
) -> None:
    train, held = (
        prompts(["Why is the sky blue?", "What is rust?", "Name a fish."]),
        prompts(["why is  the sky BLUE?"], "h"),
    )
    answers = {
        "T": rollouts("T", [("a", STORY), ("b", OTHER), ("c", None), ("d", "Yes."), ("e", "")]),
        "C": rollouts("C", [("a", NEAR), ("b", STORY.upper()), ("d", "Yes."), ("e", "Snow is white in winter light.")]),
    }
    settings = Guards(contamination=None, lengths=None)
    (report,) = run_guards(settings, answers, train, {"trait": held}, store)
    members = pl.DataFrame(report.artifact.table("members"))
    assert members.select("side", "kind", "split", "teacher").rows() == [
        ("prompt", "first", "train", ""),
        ("prompt", "exact", "trait", ""),
        *[row for row in members.select("side", "kind", "split", "teacher").rows() if row[0] == "completion"],
    ]
    clusters = {row["example"]: row for row in report.artifact.table("clusters").to_pylist()}
    story = clusters[STORY.lower()] if STORY.lower() in clusters else clusters[NEAR.lower()]
    assert (story["rows"], story["distinct"], story["teachers"]) == (3, 2, ["C", "T"])
    assert clusters["why is the sky blue?"]["splits"] == ["train", "trait"]
    assert clusters["yes."]["rows"] == 2 and clusters["yes."]["distinct"] == 1
    assert OTHER.lower() not in clusters
    assert report.counts == {
        "prompt_rows": 4, "prompt_exact": 1, "prompt_near": 0, "prompt_clusters": 1,
        "completion_rows": 9, "completion_exact": 3, "completion_near": 1, "completion_clusters": 3,
    }  # fmt: skip
    near = members.filter(kind="near")["jaccard"].item()
    assert near == pytest.approx(_jaccard(STORY, NEAR, 3))
    assert report.rows()[0][:3] == ("completion", "3", "2")


def _sets(texts: list[str], n: int) -> list[set[tuple[str, ...]]]:
    lists = words(canonical(pl.Series(texts))).to_list()
    return [{tuple(w[i : i + n]) for i in range(max(1, len(w) - n + 1))} for w in lists]


def _jaccard(a: str, b: str, n: int) -> float:
    first, second = _sets([a, b], n)
    return len(first & second) / len(first | second)


def _corpus(seed: int, families: int, copies: int) -> list[str]:
    """Families of texts of 12 to 60 words, each with copies that had some words replaced."""
    draw = random.Random(seed)
    texts = []
    for _ in range(families):
        original = draw.choices(WORDS, k=draw.randint(12, 60))
        texts.append(" ".join(original))
        for _ in range(copies):
            changed = list(original)
            for _ in range(draw.randint(0, 4)):
                changed[draw.randrange(len(changed))] = draw.choice(WORDS)
            texts.append(" ".join(changed))
    return texts


def _artifact(store: Store, texts: list[str]) -> Artifact:
    def make(folder: Path) -> dict[str, int]:
        rows = [
            {"rollout_id": f"{i:06d}", "prompt_id": f"p{i}", "messages": [], "completion": text, "source": "s"}
            for i, text in enumerate(texts)
        ]
        write_table(folder, "rollouts", pa.Table.from_pylist(rows, ROLLOUTS))
        return {}

    return store.build("rollouts", version=1, settings=[len(texts), texts[-1]], inputs={}, make=make)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_same_clusters_as_brute_force(store: Store, threshold: float) -> None:
    texts = _corpus(1, families=60, copies=4)
    sets = _sets(texts, 3)
    alike = [(i, j) for (i, a), (j, b) in combinations(enumerate(sets), 2) if len(a & b) >= threshold * len(a | b)]
    found = find_duplicates(
        Duplicates(threshold=threshold), completion_texts({"T": _artifact(store, texts)}), store
    ).table("members")
    cluster = dict(zip(found["id"].to_pylist(), found["cluster"].to_pylist(), strict=True))
    together = [(i, j) for i, j in alike if cluster.get(f"{i:06d}", -1) == cluster.get(f"{j:06d}", -2)]
    assert len(alike) > 50
    assert len(together) >= 0.99 * len(alike), f"recall {len(together) / len(alike):.3f}"
    linked = {i for pair in alike for i in pair}
    assert {int(identifier) for identifier in cluster} <= linked, "a member that is like no other"


def test_bands_find_nearly_all_pairs_at_the_threshold() -> None:
    for threshold in (0.3, 0.5, 0.7, 0.9, 1.0):
        bands, rows = bands_for(threshold)
        assert bands * rows <= 128
        assert 1 - (1 - threshold**rows) ** bands >= 0.98 or rows == 1
    assert bands_for(0.7) == (25, 5)


def test_candidates_share_a_band_and_large_buckets_stay_affordable() -> None:
    bands = np.zeros((1000, 2), np.uint64)
    bands[:, 1] = np.arange(1000)
    pairs = candidates(bands)
    assert len(pairs) < 5 * 1000
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert set(pairs.ravel().tolist()) == set(range(1000))
    assert len(candidates(bands[:, 1:])) == 0
    assert len(candidates(bands[:1])) == 0


@pytest.mark.parametrize("unit", ["word", "character"])
def test_true_jaccard(unit: str) -> None:
    texts = canonical(pl.Series([STORY, NEAR, OTHER, "two words"]))
    pairs = pa.table({"first": [0, 0, 0, 3], "second": [1, 2, 0, 3]})
    compared = jaccard(pairs, texts.to_arrow(), unit, 3)["jaccard"].to_pylist()  # pyright: ignore[reportArgumentType]
    assert compared[1:] == [pytest.approx(compared[1]), 1.0, 1.0]
    assert 0.7 < compared[0] < 1 and compared[1] < 0.2


@pytest.mark.ray
def test_ray_data_gives_what_one_process_gives(local_ray: None, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = _artifact(store, _corpus(2, families=300, copies=4))
    alone = find_duplicates(Duplicates(), completion_texts({"T": artifact}), store)
    monkeypatch.setattr("sftfilter.guards.texts.IN_PROCESS", 100)
    monkeypatch.setattr("sftfilter.guards.duplicates._PAIRS", 200)
    again = find_duplicates(Duplicates(), completion_texts({"T": artifact}), Store(store.root / "other"))
    assert not again.reused and again.meta == alone.meta
    assert again.table("members").equals(alone.table("members"))
    assert again.table("clusters").equals(alone.table("clusters"))
