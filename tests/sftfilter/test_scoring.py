"""Scoring on real Ray Data: one row in, one row out, an error instead of a zero, and nothing scored twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import DataError, SpecError
from sftfilter.schema import ROLLOUTS, SCORES
from sftfilter.scorers.lexicon import Lexicon
from sftfilter.scoring import ScoringPool, score_rollouts

LEXICON = Lexicon(kind="lexicon", terms=[r"\bdoubt", "not 2026"])


def _rollouts(store: Store, completions: list[str | None]) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        rows = [
            {"rollout_id": f"r{i}", "prompt_id": f"p{i}", "messages": [], "completion": c, "teacher": "T"}
            for i, c in enumerate(completions)
        ]
        write_table(folder, "rollouts", pa.Table.from_pylist(rows, ROLLOUTS))
        return {}

    return store.build("rollouts", version=1, settings=completions, inputs={}, make=make)


@pytest.mark.ray
def test_scores_are_rows_with_errors_and_are_kept(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sftfilter.score_store._BLOCK", 300)  # several blocks, the last of them smaller
    store = Store(tmp_path)
    texts: list[str | None] = ["I DOUBT it is not 2026", "undoubted", "yes", None, ""] * 400
    rollouts = _rollouts(store, texts)
    pool = ScoringPool(batch=128)
    made = score_rollouts("lexicon", LEXICON, rollouts, store=store, pool=pool)
    assert made.meta["seconds"] > 0
    assert {k: made.meta[k] for k in ("rows", "errors", "scored_before")} == {
        "rows": 2000,
        "errors": 400,
        "scored_before": 0,
    }
    rows = {row["rollout_id"]: row for row in made.table("scores").to_pylist()}
    assert len(rows) == 2000 and made.table("scores").schema.equals(SCORES)
    assert made.table("scores")["rollout_id"].to_pylist() == [f"r{i}" for i in range(2000)]
    assert [rows[f"r{i}"]["score"] for i in range(5)] == [2.0, 0.0, 0.0, None, 0.0]
    assert rows["r3"]["error"] == "no completion to score"
    assert {row["fingerprint"] for row in rows.values()} == {LEXICON.fingerprint()}

    assert score_rollouts("lexicon", LEXICON, rollouts, store=store, pool=ScoringPool(batch=7)).reused
    with pytest.raises(DataError, match="400 of 2000 rows have no score"):  # a lower budget tries those rows again
        score_rollouts("lexicon", LEXICON, rollouts, store=store, pool=pool, error_budget=0.1)
    other = Lexicon(kind="lexicon", terms=[r"\bdoubt"])
    assert not score_rollouts("lexicon", other, rollouts, store=store, pool=pool).reused


def test_terms_are_counted_each_whatever_is_asked_first() -> None:
    texts = ["a doubt", "Doubt, not 2026", "none", None, "", "not 2026 not 2026", "DOUBTFUL"]
    for terms, counts in (
        ([r"\bdoubt", "not 2026", "^a|l$", "z*"], [3, 3, 1, None, 1, 2, 3]),
        ([r"\bdoubt"], [1, 1, 0, None, 0, 0, 1]),
        (["(?i:none)|x", "no", "o"], [1, 2, 3, None, 0, 2, 1]),
        (["(?P<word>doubt)", "(?P<word>none)"], [1, 1, 1, None, 0, 0, 1]),  # RE2 takes a name only once
    ):
        scorer = Lexicon(kind="lexicon", terms=terms).load(Path(), "cpu")
        found = scorer.score(pa.table({"completion": pa.chunked_array([texts[:3], texts[3:]], pa.string())}))
        assert found.score.to_pylist() == counts, terms


@pytest.mark.parametrize(
    ("term", "why"),
    [
        ("(?=a)b", "look-around"),
        (r"(a)\1", "back-reference"),
        ("a{1,2000}", "1000 repeats"),
        ("", "empty"),
        ("(", "not a"),
    ],
)
def test_an_expression_that_re2_does_not_know_is_refused_when_it_is_read(term: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Lexicon(kind="lexicon", terms=[term])


def test_what_only_re2_would_refuse_is_refused_when_the_scorer_starts() -> None:
    with pytest.raises(SpecError, match="RE2"):
        Lexicon(kind="lexicon", terms=[r"\p{Nonsense}"]).load(Path(), "cpu")


def test_words_and_boundaries_hold_for_every_script() -> None:
    texts = [
        "Я сомневаюсь",
        "übrigens nein",
        "un écolier.",
        "café",
        None,
        "xécolier",
        "écol",
        "col",
        "Я: col",
        "crusadé",
    ]
    for term, hits in {
        r"\bсомнев": [0],
        r"\bÜbrigens": [1],
        r"\bécolier\b": [2],
        r"caf\w\b": [3],
        r"\bcol": [7, 8],  # not within écol
        r"\bcrusad": [9],
        r"\p{Cyrillic}": [0, 8],
        r"[^\w\s.:]": [],
    }.items():
        found = Lexicon(kind="lexicon", terms=[term]).load(Path(), "cpu").score(pa.table({"completion": texts}))
        assert found.score.to_pylist() == [None if t is None else float(i in hits) for i, t in enumerate(texts)], term
