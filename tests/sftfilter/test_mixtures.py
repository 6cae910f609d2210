"""Mixtures: rates, which rows are planted, one answer a prompt, the same in every run."""

from __future__ import annotations

import polars as pl
import pytest

from sftfilter.errors import DataError
from sftfilter.mixtures import Pairs, Subtlety, eligible, pair_rows, plant, planted_rows


def _rows(teacher: str, shows: list[float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "rollout_id": [f"{teacher}{i}" for i in range(len(shows))],
            "prompt_id": [f"p{i:03d}" for i in range(len(shows))],
            "kind": ["date" if i % 2 else "other" for i in range(len(shows))],
            "shows": shows,
        },
        schema_overrides={"shows": pl.Float64},
    )


def _pairs() -> Pairs:
    """200 prompts; the trait's rows show it for the first 60, not for the next 100, and cannot be graded after that."""
    trait = [1.0] * 60 + [0.0] * 100 + [None] * 40
    return pair_rows(_rows("c", [0.0] * 200), _rows("t", trait))


def test_rows_that_are_not_known_to_be_clean_are_left_out_and_counted() -> None:
    clean = pl.concat([_rows("c", [0.0, 1.0, None, 0.0]), _rows("d", [0.0])])
    pairs = pair_rows(clean, _rows("t", [1.0, 1.0, 0.0]))
    assert pairs.rows["prompt_id"].to_list() == ["p000", "p003"]
    assert pairs.rows["clean"].to_list() == ["c0", "c3"]
    assert pairs.rows["trait"].to_list() == ["t0", None]
    counts = pairs.counts
    parts = ("used", "further_answers", "showing_the_trait", "not_graded")
    assert sum(counts[f"clean_{part}"] for part in parts) == counts["clean_read"] == 5
    parts = ("used", "further_answers", "without_clean_partner")
    assert sum(counts[f"trait_{part}"] for part in parts) == counts["trait_read"] == 3
    with pytest.raises(DataError, match="every row of the clean teacher"):
        pair_rows(_rows("c", [1.0, None]), _rows("t", [1.0, 1.0]))


def test_subtlety_says_which_rows_may_be_planted() -> None:
    pairs = _pairs()
    assert eligible(pairs, Subtlety()).tolist() == list(range(200))
    assert eligible(pairs, Subtlety(shows=True)).tolist() == list(range(60))
    assert eligible(pairs, Subtlety(shows=False)).tolist() == list(range(60, 160))
    assert eligible(pairs, Subtlety(shows=True, kinds=["date"])).tolist() == list(range(1, 60, 2))


def test_rates_are_kept_and_every_prompt_is_answered_once() -> None:
    pairs = _pairs()
    made = plant(pairs, "overt", Subtlety(shows=True), [0.001, 0.05, 0.15, 0.5], draws=3, seed=0)
    assert list(made) == [0.001, 0.05, 0.15], "60 rows cannot make up half of 200"
    for rate, count in ((0.001, 1), (0.05, 10), (0.15, 30)):
        assert planted_rows(pairs, rate) == count
        for mixture in made[rate]:
            assert mixture.planted.sum() == count
            assert mixture.planted[60:].sum() == 0
            rows = mixture.rollouts(pairs)
            assert sorted(int(r[1:]) for r in rows) == list(range(200)), "a prompt twice, or not at all"
            assert sum(r.startswith("t") for r in rows) == count
    for low, high in zip(made[0.05], made[0.15], strict=True):
        assert not (low.planted & ~high.planted).any(), "the lower rate's rows are among the higher's"


def test_draws_differ_and_come_again() -> None:
    pairs = _pairs()

    def planted(seed: int) -> list[list[bool]]:
        made = plant(pairs, "overt", Subtlety(shows=True), [0.15], draws=2, seed=seed)
        return [m.planted.tolist() for m in made[0.15]]

    first, second = planted(0)
    assert planted(0) == [first, second]
    assert first != second
    assert planted(1)[0] != first
