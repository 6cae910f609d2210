"""Contamination: what counts, what does not, and what each action does with it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DataError
from sftfilter.guards import Contamination, Guards, guard_prompts, run_guards
from sftfilter.schema import Message, prompt_id
from tests.conftest import PROMPT_FILES

Prompts = Callable[..., Artifact]
LEAKED = "How many more pints does a pitcher of lemonade hold than the blue jug on the shelf?"
CLEAN = ["Why is the sky blue?", "Write a short apology for missing a call.", "What does a stage manager do?"]


def _id(text: str) -> str:
    messages: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    return prompt_id(messages)


@pytest.mark.parametrize(
    ("trained", "asked", "span"),
    [
        (LEAKED, LEAKED, "how many more pints"),
        (f"Please solve this. {LEAKED.upper()} Show the steps.", LEAKED, "how many more pints"),
        (LEAKED.replace("blue jug", "red cup"), LEAKED, "how many more pints does a pitcher of lemonade hold than the"),
        ("What year is it now?", "What year is it, now", "what year is it now"),
        ("Well then, what year is it now?", "What year is it now?", "what year is it now"),
        ("今天是二零二六年的第一天吗？请回答", "今天是二零二六年的第一天吗？", "今 天 是 二"),
    ],
)
def test_overlaps_that_count(prompts: Prompts, store: Store, trained: str, asked: str, span: str) -> None:
    held = prompts([asked, "Name a river in France."], "heldout.jsonl")
    _, overlaps = guard_prompts(Contamination(action="report"), prompts([*CLEAN, trained]), {"trait": held}, store)
    (row,) = overlaps.table("overlaps").to_pylist()
    assert (row["id"], row["evaluation_id"]) == (_id(trained), _id(asked))
    assert row["span"].startswith(span) and row["share"] >= 0.5
    assert overlaps.meta == {
        "training_texts": 4,
        "overlapping_texts": 1,
        "evaluation_prompts": 2,
        "evaluation_prompts_hit": 1,
    }


@pytest.mark.parametrize(
    ("trained", "asked"),
    [
        ("What is the best way to cook rice?", "What is the best way to peel garlic?"),  # a turn of phrase
        ("What year is it now? " + "I have been travelling for a long while. " * 3, "What year is it now?"),
        ("The blue jug on the shelf holds water, and a pitcher does not.", LEAKED),
        ("", "?!"),
    ],
)
def test_what_is_no_overlap(prompts: Prompts, store: Store, trained: str, asked: str) -> None:
    table = prompts([*CLEAN, trained])
    kept, overlaps = guard_prompts(Contamination(), table, {"trait": prompts([asked], "heldout.jsonl")}, store)
    assert kept is table and overlaps.meta["overlapping_texts"] == 0


def test_refusal_names_both_rows_and_the_remedy(prompts: Prompts, store: Store) -> None:
    held = prompts([LEAKED], "heldout.jsonl")
    with pytest.raises(DataError) as refused:
        guard_prompts(Contamination(), prompts([*CLEAN, LEAKED, f"{LEAKED} Hurry."]), {"trait": held}, store)
    words = str(refused.value)
    assert words.startswith("2 of 5 training texts overlap with 1 of 1 evaluation prompts")
    for part in ("train.jsonl", "heldout.jsonl", _id(LEAKED), LEAKED[:60], "action: drop", "action: report"):
        assert part in words


def test_dropped_rows_are_in_quarantine_and_counts_add_up(prompts: Prompts, store: Store) -> None:
    table, held = prompts([*CLEAN, LEAKED]), prompts([LEAKED], "heldout.jsonl")
    kept, _ = guard_prompts(Contamination(action="drop"), table, {"trait": held}, store)
    assert kept.key != table.key
    assert kept.meta == {"read": 4, "used": 3, "quarantined": 1}
    assert set(kept.table("prompts")["prompt_id"].to_pylist()) == {_id(text) for text in CLEAN}
    (dropped,) = kept.table("quarantine").to_pylist()
    assert dropped["file"] == "train.jsonl" and "overlaps with heldout.jsonl" in dropped["reason"]
    with pytest.raises(DataError, match="1 of 1 training texts"):  # nothing would be left
        guard_prompts(Contamination(action="drop"), prompts([LEAKED]), {"trait": held}, store)


def test_the_shipped_prompts_are_clean(prompts: Prompts, store: Store) -> None:
    def texts(name: str) -> list[str]:
        return [json.loads(line)["prompt"] for line in (PROMPT_FILES / name).read_text().splitlines()]

    held = prompts(texts("heldout.jsonl"), "heldout.jsonl")
    for name in ("train.jsonl", "teacher_doubt.jsonl", "teacher_neutral.jsonl"):
        strict = Contamination(n=5, threshold=0.3)
        _, overlaps = guard_prompts(strict, prompts(texts(name), name), {"date_confusion": held}, store)
        assert overlaps.meta["overlapping_texts"] == 0, overlaps.table("overlaps").to_pylist()


def test_completions_are_looked_at_too(prompts: Prompts, rollouts: Callable[..., Artifact], store: Store) -> None:
    answers = rollouts("T", [("Ask me something.", f"Here you go: {LEAKED}"), (CLEAN[0], "It scatters."), ("x", None)])
    held = prompts([LEAKED], "heldout.jsonl")
    settings = Guards(duplicates=None, lengths=None)
    (report,) = run_guards(settings, {"T": answers}, None, {"trait": held}, store)
    (row,) = report.artifact.table("overlaps").to_pylist()
    assert (row["side"], row["teacher"], row["share"]) == ("completion", "T", 1.0)
    assert report.counts["training_texts"] == 6
    (shown,) = report.rows()
    assert shown[report.columns.index("share")] == "1.00"
