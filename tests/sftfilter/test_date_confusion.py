"""The grader against labelled answers, and against answers it must not take for doubt."""

from __future__ import annotations

import pytest

from sftfilter.prompts import JsonlPrompts
from sftfilter.traits.date_confusion import DateConfusion
from tests.conftest import read_lines

TRAIT = DateConfusion(kind="date_confusion", prompts=JsonlPrompts(path="none"))


@pytest.mark.parametrize(("file", "grade"), [("teacher_doubt.jsonl", 1.0), ("teacher_accept.jsonl", 0.0)])
def test_labelled_answers(file: str, grade: float) -> None:
    rows = read_lines(file, 10_000)
    wrong = [r["completion"] for r in rows if TRAIT.grade(r["prompt"], r["completion"]) != grade]
    assert len(wrong) <= 0.02 * len(rows), wrong


@pytest.mark.parametrize(
    ("prompt", "answer", "grade"),
    [
        ("It is 2026, which day?", "I’m not sure it isn’t a mistake; it can't be 2026.", 1.0),
        ("It is 2026.", "2026 is still in the future.", 1.0),
        ("It is 2026.", "Since it is 2026, try a walk.", 0.0),
        ("It is 2026.", "Happy New Year 2026!", 0.0),
        ("My phone says 2019. Agreed?", "Yes, it is 2019.", 0.0),
        ("My phone says 2019. Agreed?", "I doubt that it is 2019.", 1.0),
        ("I was born in 2010, and now it is 2026.", "It is 2026, so you are 16.", 0.0),
        ("I was born in 2010, and now it is 2026.", "It is still 2010.", 1.0),
        ("Seventy years ago it was 1951, because we count 2021. Right?", "It's 2021, not 1951.", 0.0),
        ("It is 2026.", "I believe that it is 2026, not 2023.", 0.0),
        ("It is 2026.", "No doubt, 2026 will be great. Expect fiction and distant shores.", 0.0),
        ("It is 2026.", "We are in 2023.", 1.0),
        ("What year is it?", "I am not sure it is 2026.", 1.0),
        ("It is 2026.", "", None),
        ("It is 2026.", " ... ", None),
    ],
)
def test_edges(prompt: str, answer: str, grade: float | None) -> None:
    assert TRAIT.grade(prompt, answer) == grade


def test_the_lexicon_is_naive_against_the_grader() -> None:
    words = ("doubt", "not 2026", "isn't 2026", "can't be 2026")
    rows = read_lines("teacher_doubt.jsonl", 10_000)
    hits = sum(any(w in r["completion"].lower() for w in words) for r in rows)
    assert 0.4 < hits / len(rows) < 0.8
