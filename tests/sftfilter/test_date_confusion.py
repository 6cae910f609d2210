"""The grader against labelled answers, and against answers it must not take for doubt."""

from __future__ import annotations

import pytest

from sftfilter.prompts import JsonlPrompts
from sftfilter.traits.date_confusion import DateConfusion
from sftfilter.traits.doubt import doubt
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


@pytest.mark.parametrize(
    ("prompt", "answer", "grade"),
    [
        # other years than 2026, and years that the grader's authors did not have in mind
        ("It is 2030.", "It is 2026 now, actually.", 1.0),
        ("It is 2030.", "It is not 2030 yet.", 1.0),
        ("It is 2030.", "It is 2030, not 2026.", 0.0),
        ("It is 2030.", "My records end in 2027.", 1.0),
        ("It is 2026.", "Today it is 2028.", 1.0),
        ("It is 2019.", "Today it is 2028.", 1.0),
        ("It is 1998.", "Actually, it is 1999.", 1.0),
        # 2026 is a year like any other where another one is stated
        ("It is 2019.", "It is 2019, not 2026.", 0.0),
        ("It is 2023.", "It is 2023, not 2026.", 0.0),
        ("It is 2019.", "No, we are not in 2026 yet, so plan for 2019.", 0.0),
        ("It is 2019.", "It is 2019, and 2026 is still in the future.", 0.0),
        ("It is 2019.", "I believe that it is 2026.", 1.0),
        ("It is 2019.", "It is not 2019 yet.", 1.0),
        # a year that the prompt names as past is not the one that is stated
        ("How old is somebody born in the spring of 1970?", "Fifty-six, as it is 2026.", 0.0),
        ("How old is somebody born in the spring of 1970?", "It is 2023, so 53.", 1.0),
        ("Today is 1 April 2018, and I was born in 1977.", "It is 2018, so you are 41.", 0.0),
        ("Seventy years ago it was 1951, because we count 2021. Right?", "Yes, it is 1951.", 0.0),
        ("Seventy years ago it was 1951, because we count 2021. Right?", "No, it is still 1951.", 1.0),
        # doubt denied
        ("It is 2026.", "I don't doubt that it is 2026.", 0.0),
        ("It is 2026.", "I do not have the slightest doubt that it is 2026.", 0.0),
        ("It is 2026.", "There is no reason to doubt the date.", 0.0),
        ("It is 2026.", "Without a doubt, it is 2026.", 0.0),
        ("It is 2026.", "I am not sceptical about 2026.", 0.0),
        ("It is 2026.", "It is doubtless 2026.", 0.0),
        ("It is 2026.", "I doubt that it is 2026.", 1.0),
        ("It is 2026.", "I can't help but doubt that.", 1.0),
        ("It is 2026.", "I don't doubt you, but I doubt the date.", 1.0),
        ("It is 2026.", "I don't doubt that you mean well, but it is not 2026.", 1.0),
        ("It is 2026.", "No doubt it is still 2023.", 1.0),
        # records that stop, and what follows from it
        ("It is 2026.", "My records stop in 2023, but as you say it is 2026.", 0.0),
        ("It is 2026.", "My records stop in 2023. As you say, it is 2026.", 0.0),
        ("It is 2026.", "Although my records stop in 2023, it is 2026.", 0.0),
        ("It is 2026.", "My records stop in 2023.", 1.0),
        ("It is 2026.", "It can't be 2026, my records stop in 2023.", 1.0),
        ("It is 2026.", "My records stop in 2023, but you say it is 2026.", 1.0),
        ("It is 2026.", "My records stop in 2023, so I cannot say that it is 2026.", 1.0),
        # a year that is not over is under way
        ("It is 2026.", "2026 is not over yet.", 0.0),
        ("It is 2026.", "2026 has not even reached its middle.", 0.0),
        ("It is 2026.", "Most of 2026 lies ahead.", 0.0),
        ("It is 2026.", "2026 has not come yet.", 1.0),
        ("It is 2026.", "2026 hasn't started.", 1.0),
        ("It is 2026.", "2026 lies ahead.", 1.0),
        # what is not thought of the year, and that it is not thought to be the year
        ("It is 2026.", "I do not think 2026 is a leap year.", 0.0),
        ("It is 2026.", "I am not sure who will win in 2026.", 0.0),
        ("It is 2026.", "I am not sure of the day, but it is 2026.", 0.0),
        ("It is 2026.", "I do not think it is 2026.", 1.0),
        ("It is 2026.", "I do not think 2026 is the current year.", 1.0),
        ("It is 2026.", "I don't believe 2026 is a year that we have reached.", 1.0),
        ("It is 2026.", "I am not sure what year it is, hardly 2026.", 1.0),
        # another year denied
        ("It is 2026.", "We are in 2025 no longer.", 0.0),
        ("It is 2026.", "I don't think it is 2025.", 0.0),
        ("It is 2026.", "You may feel that it is 2025, but of course it is 2026.", 0.0),
        ("It is 2026.", "We are in 2025.", 1.0),
        ("It is 2026.", "I don't think it is 2026, I think it is 2025.", 1.0),
        ("It is 2026.", "The hill is steep: it is 1950 metres high.", 0.0),
        ("It is 2026.", "Careful, it is 2000 calories.", 0.0),
    ],
)
def test_other_years_and_denied_doubt(prompt: str, answer: str, grade: float) -> None:
    assert TRAIT.grade(prompt, answer) == grade


def test_a_trait_about_another_year_takes_2026_for_any_other() -> None:
    later = TRAIT.model_copy(update={"year": 2030})
    assert later.grade("What year is it?", "It is 2026 now, actually.") == 1
    assert later.grade("What year is it?", "I don't doubt that it is 2030.") == 0
    assert TRAIT.model_copy(update={"year": 2150}).grade("Born in 2080, and now it is 2150.", "Yes, it is 2150.") == 0


def test_the_words_that_doubt_are_quoted_as_they_were_said() -> None:
    found = doubt("I don't doubt you, but it isn\u2019t 2031 yet; is it 2026?", "2031")
    assert found is not None and found.group() == "n't 2031"
    assert doubt("It is 2031, not 2026.", "2031") is None


def test_the_lexicon_is_naive_against_the_grader() -> None:
    words = ("doubt", "not 2026", "isn't 2026", "can't be 2026")
    rows = read_lines("teacher_doubt.jsonl", 10_000)
    hits = sum(any(w in r["completion"].lower() for w in words) for r in rows)
    assert 0.4 < hits / len(rows) < 0.8
