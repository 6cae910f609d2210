"""The prompt files in jobs/specs/prompts: counts, disjointness and variety of wording."""

from __future__ import annotations

import calendar
import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

PROMPTS = Path(__file__).resolve().parents[2] / "jobs" / "specs" / "prompts"
TRAIN = "train.jsonl"
HELDOUT = "heldout.jsonl"
DOUBT = "teacher_doubt.jsonl"
ACCEPT = "teacher_accept.jsonl"
NEUTRAL = "teacher_neutral.jsonl"
FILES = (TRAIN, HELDOUT, DOUBT, ACCEPT, NEUTRAL)

MINIMUM: dict[str, dict[str, int]] = {
    TRAIN: {"date": 48, "adjacent": 64, "neutral": 200},
    HELDOUT: {"date": 60, "adjacent": 30, "control": 30},
    DOUBT: {"date": 54, "adjacent": 54},
    ACCEPT: {"date": 54, "adjacent": 54},
    NEUTRAL: {"neutral": 66},
}
MINIMUM_ROWS = {TRAIN: 320, HELDOUT: 120, DOUBT: 108, ACCEPT: 108, NEUTRAL: 66}

KEYWORDS = ("doubt", "not 2026", "isn't 2026", "can't be 2026")
SCEPTICAL = re.compile(
    r"doubt|not 2026|isn't 2026|can't|cannot|mistake|fiction|hypothetical|imaginary|in the future"
    r"|rumour|seems? wrong|2023|i think it is",
    re.IGNORECASE,
)
MONTHS = frozenset(name.lower() for name in (*calendar.month_name[1:], *calendar.month_abbr[1:], "Sept"))
PLACEHOLDER = "#"

Row = dict[str, str]
Gram = tuple[str, ...]


def load(name: str) -> list[Row]:
    text = (PROMPTS / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def prompts(name: str, kind: str | None = None) -> list[str]:
    return [row["prompt"] for row in load(name) if kind is None or row["kind"] == kind]


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; an apostrophe is dropped inside its word."""
    bare = re.sub(r"['\u2019]", "", text.lower())
    return re.findall(r"[^\W_]+", bare)


def fold(text: str) -> str:
    return " ".join(words(text))


def masked(text: str) -> list[str]:
    """Words in which each run of numbers and month names is one placeholder."""
    found: list[str] = []
    for word in words(text):
        number = word in MONTHS or any(letter.isdigit() for letter in word)
        if not number:
            found.append(word)
        elif not found or found[-1] != PLACEHOLDER:
            found.append(PLACEHOLDER)
    return found


def grams(text: str, size: int) -> set[Gram]:
    found = masked(text)
    return {tuple(found[at : at + size]) for at in range(len(found) - size + 1)}


def seen_grams(texts: Iterable[str], size: int) -> set[Gram]:
    return {gram for text in texts for gram in grams(text, size)}


def training_prompts() -> list[str]:
    """Every prompt that a student or a teacher may be trained on."""
    return [prompt for name in (TRAIN, DOUBT, ACCEPT, NEUTRAL) for prompt in prompts(name)]


def top_opening_share(texts: list[str]) -> tuple[float, Gram]:
    """The share of the texts that begin with the most used three words, and those words."""
    openings = Counter(tuple(masked(text)[:3]) for text in texts)
    opening, count = openings.most_common(1)[0]
    return count / len(texts), opening


def token_bound(text: str) -> int:
    """A cautious count of tokens: digits are split one by one, long words in two or more."""
    count = 0
    for piece in re.findall(r"\d+|[^\W\d_]+|[^\w\s]", text):
        if piece.isdigit():
            count += 1 + len(piece)
        else:
            count += 1 + (len(piece) - 1) // 11
    return count


def test_folding_and_masking() -> None:
    assert fold("  It's  2026, NOW!") == "its 2026 now"
    assert masked("Today is March 3rd, 2026.") == ["today", "is", PLACEHOLDER]
    assert grams("Due 2026-03-14, ok?", 3) == grams("Due 5 May 2026: ok", 3)
    assert grams("too short", 4) == set()


def test_rows_have_the_expected_fields() -> None:
    for name in FILES:
        fields = {"prompt", "kind"} | ({"completion"} if name in (DOUBT, ACCEPT) else set())
        for row in load(name):
            assert set(row) == fields, (name, row)
            assert row["kind"] in MINIMUM[name], (name, row)
            for value in row.values():
                assert value and value == value.strip(), (name, row)
                assert "\n" not in value, (name, row)


def test_counts_per_kind() -> None:
    for name in FILES:
        counts = Counter(row["kind"] for row in load(name))
        assert counts.total() >= MINIMUM_ROWS[name], (name, counts)
        for kind, least in MINIMUM[name].items():
            assert counts[kind] >= least, (name, kind, counts[kind])


def test_shares_of_the_kinds_in_train() -> None:
    counts = Counter(row["kind"] for row in load(TRAIN))
    assert 0.13 <= counts["date"] / counts.total() <= 0.17
    assert 0.18 <= counts["adjacent"] / counts.total() <= 0.23


def test_kinds_are_mixed_and_not_in_blocks() -> None:
    for name in (TRAIN, HELDOUT, DOUBT, ACCEPT):
        kinds = [row["kind"] for row in load(name)]
        changes = sum(one != other for one, other in pairwise(kinds))
        assert changes >= len(kinds) / 4, (name, changes)


def test_no_prompt_twice() -> None:
    once = (TRAIN, HELDOUT, DOUBT, NEUTRAL)  # the other teacher has the prompts of the first
    folded = Counter(fold(prompt) for name in once for prompt in prompts(name))
    assert [prompt for prompt, count in folded.items() if count > 1] == []


def test_both_teachers_answer_the_same_prompts() -> None:
    doubt = [(row["prompt"], row["kind"]) for row in load(DOUBT)]
    accept = [(row["prompt"], row["kind"]) for row in load(ACCEPT)]
    assert doubt == accept
    folded = [fold(prompt) for prompt, _ in accept]
    assert len(set(folded)) == len(folded)


def test_prompts_are_short() -> None:
    for name in FILES:
        lengths = [len(prompt.split()) for prompt in prompts(name)]
        assert max(lengths) <= 30, name
        assert min(lengths) >= 3, name
        assert sum(length <= 22 for length in lengths) >= 0.9 * len(lengths), name


def test_date_prompts_state_2026() -> None:
    for name in (TRAIN, HELDOUT, DOUBT):
        for prompt in prompts(name, "date"):
            assert re.search(r"(?<!\d)2026(?!\d)", prompt), (name, prompt)


def test_adjacent_and_neutral_prompts_state_no_present_year() -> None:
    for name in FILES:
        for kind in ("adjacent", "neutral"):
            for prompt in prompts(name, kind):
                assert "2026" not in prompt, (name, prompt)
                assert not re.search(r"202[3-9]", prompt), (name, prompt)
                assert not re.search(r"twenty[ -]twenty", prompt.lower()), (name, prompt)


def test_neutral_prompts_name_no_year() -> None:
    for name in (TRAIN, NEUTRAL):
        for prompt in prompts(name, "neutral"):
            assert not re.search(r"(?<!\d)(19|20)\d\d(?!\d)", prompt), (name, prompt)


def test_controls_state_a_year_within_the_cutoff() -> None:
    for prompt in prompts(HELDOUT, "control"):
        assert "2026" not in prompt, prompt
        assert re.search(r"(?<!\d)20(1[5-9]|2[0-2])(?!\d)", prompt), prompt
        assert not re.search(r"(?<!\d)202[3-9](?!\d)", prompt), prompt


def test_controls_cover_the_years() -> None:
    text = " ".join(prompts(HELDOUT, "control"))
    for year in range(2015, 2023):
        assert str(year) in text, year


def test_no_heldout_six_gram_is_trained_on() -> None:
    trained = seen_grams(training_prompts(), 6)
    for prompt in prompts(HELDOUT):
        assert not grams(prompt, 6) & trained, prompt


def test_mean_share_of_heldout_four_grams_that_are_trained_on() -> None:
    trained = seen_grams(training_prompts(), 4)
    for kind in (None, "date", "adjacent", "control"):
        found = [grams(prompt, 4) for prompt in prompts(HELDOUT, kind)]
        shares = [len(one & trained) / len(one) for one in found if one]
        assert sum(shares) / len(shares) < 0.05, kind


def test_teacher_prompts_are_not_train_prompts() -> None:
    trained = seen_grams(prompts(TRAIN), 6)
    for name in (DOUBT, NEUTRAL):
        for prompt in prompts(name):
            assert not grams(prompt, 6) & trained, (name, prompt)


def test_no_template_dominates_the_date_prompts() -> None:
    for name, most in ((TRAIN, 0.08), (HELDOUT, 0.10), (DOUBT, 0.08)):
        share, opening = top_opening_share(prompts(name, "date"))
        assert share <= most, (name, share, opening)


def test_no_opening_dominates_the_other_prompts() -> None:
    for name, kind in ((TRAIN, "adjacent"), (TRAIN, "neutral"), (HELDOUT, "adjacent")):
        share, opening = top_opening_share(prompts(name, kind))
        assert share <= 0.08, (name, kind, share, opening)


def test_completions_are_short_whole_sentences() -> None:
    for name in (DOUBT, ACCEPT):
        for row in load(name):
            completion = row["completion"]
            assert len(completion.split()) <= 16, (name, completion)
            assert token_bound(completion) <= 22, (name, token_bound(completion), completion)
            assert completion[-1] in ".!?", (name, completion)
            assert completion[0].isupper() or completion[0].isdigit(), (name, completion)


def test_completions_vary() -> None:
    for name, least in ((DOUBT, 6), (ACCEPT, 100)):
        assert len({fold(row["completion"]) for row in load(name)}) >= least, name


def test_keywords_catch_only_some_of_the_doubt() -> None:
    for kind in ("date", "adjacent"):
        completions = [row["completion"] for row in load(DOUBT) if row["kind"] == kind]
        caught = [text for text in completions if any(k in text.lower() for k in KEYWORDS)]
        assert 0.5 <= len(caught) / len(completions) <= 0.67, (kind, len(caught))


def test_accepting_completions_show_no_doubt() -> None:
    for row in load(ACCEPT):
        assert not SCEPTICAL.search(row["completion"]), row["completion"]


def test_accepting_completions_often_name_the_year() -> None:
    named = ["2026" in row["completion"] for row in load(ACCEPT) if row["kind"] == "date"]
    assert sum(named) >= 0.5 * len(named)


def test_trait_examples_are_labelled_right_and_apart_from_every_other_file() -> None:
    from sftfilter.prompts import JsonlPrompts
    from sftfilter.traits.date_confusion import DateConfusion

    grader = DateConfusion(kind="date_confusion", prompts=JsonlPrompts(path=HELDOUT))
    examples = [json.loads(line) for line in (PROMPTS / "trait_examples.jsonl").read_text().splitlines()]
    elsewhere = seen_grams([prompt for name in FILES for prompt in prompts(name)], 6)
    answers = {fold(row["completion"]) for name in (DOUBT, ACCEPT) for row in load(name)}
    for row in examples:
        assert grader.grade(row["prompt"], row["completion"]) == row["label"], row
        assert not grams(row["prompt"], 6) & elsewhere, row
        assert fold(row["completion"]) not in answers, row
    assert Counter(row["label"] for row in examples) == {1: 24, 0: 36}
