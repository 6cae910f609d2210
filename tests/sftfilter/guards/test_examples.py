"""Files that scorers and teachers learn from: evaluation prompts in them are found, named, and never dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DataError
from sftfilter.guards import Contamination, guard_examples
from tests.conftest import write_lines

Prompts = Callable[..., Artifact]
LEAKED = "How many more pints does a pitcher of lemonade hold than the blue jug on the shelf?"
CLEAN = "Write a short apology for missing a call."


def _files(folder: Path) -> dict[str, tuple[str, bool]]:
    """Two files whose second row is an evaluation prompt, and one without; a row of the first cannot be used."""
    rows = [{"prompt": CLEAN, "completion": "Sorry."}, {"prompt": f"Well: {LEAKED}", "completion": "Two."}]
    write_lines(folder / "labelled.jsonl", [*rows, {"prompt": "Who?", "completion": ""}])
    write_lines(folder / "questions.jsonl", [{"prompt": row["prompt"]} for row in rows])
    write_lines(folder / "answers.jsonl", rows[:1])
    return {
        "scorers.probe.labelled": (str(folder / "labelled.jsonl"), True),
        "scorers.persona.questions": (str(folder / "questions.jsonl"), False),
        "teachers.T.answers": (str(folder / "answers.jsonl"), True),
    }


@pytest.mark.parametrize("action", ["refuse", "drop"])
def test_refusal_names_field_file_and_row(
    action: Literal["refuse", "drop"], prompts: Prompts, store: Store, tmp_path: Path
) -> None:
    held = prompts([LEAKED, "Name a river in France."], "heldout.jsonl")
    with pytest.raises(DataError) as refused:
        guard_examples(Contamination(action=action), _files(tmp_path), {"trait": held}, store)
    words = str(refused.value)
    assert words.startswith("2 of 5 examples for scorers and teachers overlap with 1 of 2 evaluation prompts")
    for part in (
        f"scorers.probe.labelled: {tmp_path / 'labelled.jsonl'}, row 2",
        f"scorers.persona.questions: {tmp_path / 'questions.jsonl'}, row 2",
        "heldout.jsonl: prompt",
        "action: report",
    ):
        assert part in words
    assert "teachers.T.answers" not in words
    assert ("leaves out training prompts only" in words) == (action == "drop")


def test_reported_overlaps_are_listed(prompts: Prompts, store: Store, tmp_path: Path) -> None:
    held = prompts([LEAKED], "heldout.jsonl")
    found = guard_examples(Contamination(action="report"), _files(tmp_path), {"trait": held}, store)
    listed = {(row["teacher"], row["evaluation"]) for row in found.table("overlaps").to_pylist()}
    assert listed == {("scorers.probe.labelled", "trait"), ("scorers.persona.questions", "trait")}


def test_a_file_that_is_put_right_passes(prompts: Prompts, store: Store, tmp_path: Path) -> None:
    held, files = prompts([LEAKED], "heldout.jsonl"), _files(tmp_path)
    with pytest.raises(DataError):
        guard_examples(Contamination(), files, {"trait": held}, store)
    for name in ("labelled.jsonl", "questions.jsonl"):
        write_lines(tmp_path / name, [{"prompt": CLEAN, "completion": "Sorry."}])
    assert guard_examples(Contamination(), files, {"trait": held}, store).meta["overlapping_texts"] == 0
