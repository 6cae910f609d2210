"""Selectors and interventions: exact subsets, a decision for every row, and counts that add up."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from sftfilter.errors import DataError, SpecError
from sftfilter.interventions import DropPrompt, DropRow, Swap, decide, trained_rows
from sftfilter.selectors import AllOf, ByField, RandomPrompts, Selector, Subset, Threshold, select

ROWS = pl.DataFrame(
    {
        "rollout_id": [f"t{i}" for i in range(10)],
        "prompt_id": [f"p{i // 2}" for i in range(10)],  # two answers a prompt
        "kind": ["date"] * 4 + ["neutral"] * 6,
        "source": ["a"] * 10,
        "lexicon": [2.0, 0.0, 1.0, None, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
    }
)
SELECTORS: dict[str, Selector] = {
    "flagged": Threshold(kind="threshold", scorer="lexicon", at_least=1),
    "S": ByField(kind="field", equals="date"),
    "both": AllOf(kind="all_of", of=["S", "flagged"]),
    "random": RandomPrompts(kind="random", size_of="S"),
}
OWN = ROWS.select("rollout_id", "prompt_id").to_dicts()
PARTNERS = {f"p{i}": [f"c{i}a", f"c{i}b"] for i in range(5)}


def _pick(name: str, seed: int = 0) -> Subset:
    return select(name, SELECTORS, ROWS, seed)


def test_subsets_are_exact_and_missing_scores_are_never_selected() -> None:
    assert _pick("flagged").rollout_ids == {"t0", "t2", "t5"}
    assert _pick("flagged").threshold == 1
    assert _pick("S").prompt_ids == {"p0", "p1"}
    assert _pick("both").rollout_ids == {"t0", "t2"}
    assert _pick("both").prompt_ids == {"p0", "p1"}


def test_random_control_has_the_size_of_s_and_moves_with_the_seed() -> None:
    drawn = {_pick("random", seed).prompt_ids for seed in range(20)}
    assert {len(prompts) for prompts in drawn} == {2}
    assert len(drawn) > 3
    assert _pick("random", 4) == _pick("random", 4)


def test_a_kind_that_nobody_has_is_named() -> None:
    with pytest.raises(DataError, match="there are: date, neutral"):
        select("x", {"x": ByField(kind="field", equals="dates")}, ROWS, 0)
    with pytest.raises(SpecError, match="did you mean 'random'"):
        select("randm", SELECTORS, ROWS, 0)


def _counts(decisions: list[dict[str, Any]]) -> dict[str, int]:
    return {action: sum(d["action"] == action for d in decisions) for action in ("keep", "drop", "swap")}


def test_drop_prompt_takes_every_row_of_the_prompt_and_drop_row_only_the_flagged() -> None:
    whole = decide(OWN, DropPrompt(kind="drop_prompt", subset="both"), _pick("both"), {})
    rows = decide(OWN, DropRow(kind="drop_row", subset="both"), _pick("both"), {})
    assert _counts(whole) == {"keep": 6, "drop": 4, "swap": 0}
    assert _counts(rows) == {"keep": 8, "drop": 2, "swap": 0}
    assert {d["rollout_id"] for d in rows if d["action"] == "drop"} == {"t0", "t2"}
    assert all(d["selector"] == "both" and d["threshold"] == 1 for d in rows)


def test_swap_replaces_row_by_row_on_the_same_prompt() -> None:
    decisions = decide(OWN, Swap(kind="swap", subset="S", to="C"), _pick("S"), PARTNERS)
    assert _counts(decisions) == {"keep": 6, "drop": 0, "swap": 4}
    assert trained_rows(decisions)[:4] == [("p0", "c0a"), ("p0", "c0b"), ("p1", "c1a"), ("p1", "c1b")]
    assert len(trained_rows(decisions)) == len(OWN)


def test_a_missing_partner_is_an_error_that_names_the_prompt() -> None:
    with pytest.raises(DataError, match=r"1 of 2 prompts .* prompt ids p1"):
        decide(OWN, Swap(kind="swap", subset="S", to="C"), _pick("S"), {"p0": ["a", "b"], "p1": ["a"]})


def test_without_an_intervention_everything_is_kept() -> None:
    assert trained_rows(decide(OWN, None, None, {})) == [(r["prompt_id"], r["rollout_id"]) for r in OWN]
