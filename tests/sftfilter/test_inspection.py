"""What inspect finds: counts of all rows, ties and outliers handled as said, agreement against known values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from sftfilter.inspection.agreement import agreement, kappas
from sftfilter.inspection.deciles import sampled_rows, strata
from sftfilter.inspection.findings import find
from sftfilter.inspection.spread import BINS, OTHER, histogram, reasons


def _rows(scores: Sequence[float | None], **more: Any) -> pl.DataFrame:
    ids = [f"{(n * 7919) % 65536:04x}" for n in range(len(scores))]
    return pl.DataFrame({"rollout_id": ids, "s": pl.Series(scores, dtype=pl.Float64), **more})


def test_deciles_that_hold_one_score_are_joined() -> None:
    parts = strata(_rows([0.0] * 70 + [1.0] * 20 + [2.0] * 10), "s", 3)
    assert [(p["first"], p["last"], p["low"], p["high"], p["rows"]) for p in parts] == [
        (1, 7, 0.0, 0.0, 70),
        (8, 9, 1.0, 1.0, 20),
        (10, 10, 2.0, 2.0, 10),
    ]
    assert all(len(set(part["sample"])) == 3 for part in parts)
    assert strata(_rows([None, None]), "s", 3) == []
    few = strata(_rows([3.0, 1.0, None, 2.0]), "s", 3)
    assert sum(part["rows"] for part in few) == 3 and sum(len(part["sample"]) for part in few) == 3


def test_the_sample_does_not_depend_on_the_order_of_the_rows() -> None:
    rows = _rows([float(n % 37) for n in range(500)])
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=1)
    assert strata(rows, "s", 4) == strata(shuffled, "s", 4)


def test_histograms_count_every_scored_row() -> None:
    draws = np.random.default_rng(0).normal(size=5000)
    draws[7] = 1e9
    scores = [None, *draws.tolist()]
    rows = _rows(scores, teacher=["T"] * 5001, source=[f"f{n % 9}" for n in range(5001)]).lazy()
    found = histogram(rows, "s", ["teacher", "source"], ["T"])
    assert found is not None
    assert len(found["bins"]) == BINS and found["beyond"] > 0
    assert found["bins"][-1]["high"] < 100  # one outlier does not squeeze the rest into a bar
    assert sum(found["by"]["teacher"]["T"]) == 5000
    assert sum(map(sum, found["by"]["source"].values())) == 5000
    assert list(found["by"]["source"])[-1] == OTHER and len(found["by"]["source"]) == 7


def test_sources_are_counted_for_each_teacher_that_has_several() -> None:
    teachers = ["T"] * 4 + ["C"] * 3
    rows = _rows([0, 0, 1, 1, 0, 1, 1], teacher=teachers, source=["web", "web", "web", "book", "web", "web", "web"])
    found = histogram(rows.lazy(), "s", ["teacher", "source"], ["T", "C"])
    assert found is not None
    assert found["by"]["source"] == {"web": [3, 3], "book": [0, 1]}
    assert found["by"]["source of T"] == {"web": [2, 1], "book": [0, 1]}
    assert list(found["by"]) == ["teacher", "source", "source of T"]
    alone = histogram(rows.lazy().filter(pl.col("teacher") == "T"), "s", ["teacher", "source"], ["T"])
    assert alone is not None and list(alone["by"]) == ["teacher", "source"]


def test_few_distinct_scores_get_a_bin_each() -> None:
    rows = _rows([0, 0, 3, 3, 3, None, 9], teacher=["T"] * 5 + ["C"] * 2).lazy()
    found = histogram(rows, "s", ["teacher"], ["T", "C"])
    assert found is not None
    assert [one["low"] for one in found["bins"]] == [0, 3, 9]
    assert found["by"]["teacher"] == {"T": [2, 3, 0], "C": [0, 0, 1]}
    assert histogram(_rows([None], teacher=["T"]).lazy(), "s", ["teacher"]) is None


def test_rank_correlation_is_spearmans_and_ties_share_the_top_tenth() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=400), rng.integers(0, 3, size=400).astype(float)
    b[:100] += a[:100] > 0
    rows = _rows(a.tolist(), b=b, flat=[1.0] * 400)
    found = agreement(rows, ["s", "b", "flat"])
    assert found["rank_correlation"][0][1] == pytest.approx(stats.spearmanr(a, b)[0])
    assert found["rank_correlation"][0][2] is None
    assert found["top_decile"][0][0] == pytest.approx(1.0)
    assert found["top_decile"][0][2] is None  # a constant has no highest tenth
    drawn = []
    for _ in range(300):
        order = np.lexsort((rng.random(400), -b))[:40]
        drawn.append(len(set(order) & set(np.argsort(-a)[:40])) / 40)
    assert found["top_decile"][0][1] == pytest.approx(np.mean(drawn), abs=0.02)
    gaps = rows.with_columns(pl.when(pl.int_range(pl.len()) < 50).then(None).otherwise("s").alias("s"))
    assert agreement(gaps, ["s", "b"])["rows"][0][1] == 350


def test_kappa_by_hand() -> None:
    a = np.array([True] * 20 + [True] * 5 + [False] * 10 + [False] * 15)
    b = np.array([True] * 20 + [False] * 5 + [True] * 10 + [False] * 15)
    found = kappas({"a": a, "b": b, "none": np.zeros(50, bool)})
    assert found["kappa"][0][1] == pytest.approx(0.4)  # observed 0.7, by chance 0.5
    assert found["kappa"][0][2] == pytest.approx(0.0)
    assert found["kappa"][2][2] is None
    assert found["rows"] == {"a": 25, "b": 30, "none": 0}


def test_reasons_name_why_rows_have_no_score() -> None:
    rows = _rows([1.0, None, None, None], teacher=["T"] * 4, s_error=[None, "timed out", "timed out", None])
    assert reasons(rows.lazy(), "s") == [
        {"teacher": "T", "reason": "timed out", "rows": 2},
        {"teacher": "T", "reason": "never scored", "rows": 1},
    ]


def _tables(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Two teachers on two prompts; T answers the first one twice, C only the first."""
    answers = {"T": [("p1", "t1", "no " * 5000), ("p1", "t2", "no"), ("p2", "t3", "maybe")], "C": [("p1", "c1", "yes")]}
    paths, rows = {}, []
    for teacher, given in answers.items():
        turns = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Is it?"}]
        table = [{"rollout_id": i, "prompt_id": p, "messages": turns, "completion": text} for p, i, text in given]
        paths[teacher] = folder / f"{teacher}.parquet"
        pl.DataFrame(table).write_parquet(paths[teacher])
        rows += [{"rollout_id": i, "prompt_id": p, "teacher": teacher, "kind": None, "source": "f", "source_id": None,
                  "characters": len(text), "s": float(n), "s_error": None} for n, (p, i, text) in enumerate(given)]  # fmt: skip
    joined = pl.DataFrame(rows, schema_overrides={"kind": pl.String, "source_id": pl.String, "s_error": pl.String})
    joined.write_parquet(folder / "scores.parquet")
    return folder / "scores.parquet", paths


def test_rows_stand_beside_the_other_teachers_first_answer(tmp_path: Path) -> None:
    table, paths = _tables(tmp_path)
    rows = sampled_rows(table, paths, ["t1", "c1", "t3"], ["s"])
    assert list(rows) == ["c1", "t1", "t3"]
    assert rows["c1"]["others"][0]["teacher"] == "T" and rows["c1"]["others"][0]["answers"] == 2
    assert rows["t3"]["others"] == []
    assert rows["t1"]["prompt"] == "[system] Brief.\n\n[user] Is it?" and rows["t1"]["last_turn"] == "Is it?"
    assert len(rows["t1"]["completion"]) == 3000 and rows["t1"]["characters"] == 15000


def test_findings_hold_every_part(tmp_path: Path) -> None:
    table, paths = _tables(tmp_path)
    found = find(table, paths, ["s"], 2)
    assert found["prompts"] == {"all": 2, "answered_by_every_teacher": 1}
    assert found["scores"]["T"]["s"]["deciles"][0] == 0 and found["scores"]["T"]["s"]["deciles"][-1] == 2
    assert set(found["strata"]["s"]) == {"T", "C"}
    sampled = {
        i for teachers in found["strata"].values() for parts in teachers.values() for p in parts for i in p["sample"]
    }
    assert sampled == set(found["rows"])
