"""A broken student is found, by exact rules and by paired differences from the base."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from sftfilter.capability import Capability, InstructionFollowing, broken
from sftfilter.capability.instructions import RULES, _checks
from sftfilter.traits.contract import Turn, split_thinking
from sftfilter.traits.judging import Judging
from tests.conftest import read_lines


@pytest.mark.parametrize(
    ("rule", "value", "good", "bad"),
    [
        ("words_exactly", 2, "cold white", "very cold white"),
        ("words_at_most", 3, "hello there", ""),
        ("words_at_least", 2, "a b", "a"),
        ("sentences_exactly", 2, "One is 3.5 long. Two!", "One."),
        ("lines_exactly", 2, "a\n\nb", "a"),
        ("one_of", ["yes", "no"], "No.", "no, never"),
        ("one_cased", "RIVER", "RIVER.", "River"),
        ("matches", r"\d+", "8", "eight"),
        ("contains", "boat", "A Boat!", "a ship"),
        ("excludes", "dog", "They bark.", "Dogs bark."),
        ("starts_with", "Indeed", "Indeed, yes.", "Yes, indeed"),
        ("ends_with", "done", "It is done.", "It was done well"),
        ("ends_with", "?", "How was it?", "It was?."),
        ("uppercase", True, "HELLO 2", "Hello"),
        ("lowercase", True, "a cat", "A cat"),
        ("parts", 3, "fig, pear, plum", "fig and pear, plum"),
        ("numbered", 2, "1. wash\n2) dry", "1. wash"),
        ("dashes", 2, "- a\n-b", "a\nb"),
        ("json_keys", ["name"], '```json\n{"name": "Elbe"}\n```', '{"name": 1, "x": 2}'),
    ],
)
def test_rules(rule: str, value: object, good: str, bad: str) -> None:
    assert RULES[rule](good, value) and not RULES[rule](bad, value)


def test_requests_use_known_rules_and_no_training_prompt() -> None:
    trait = InstructionFollowing(kind="instruction_following")
    asked = [e.turns[0] for e in trait.episodes()]
    assert len(asked) == 40 and not set(asked) & {row["prompt"] for row in read_lines("train.jsonl", 1000)}
    assert {rule for checks in _checks().values() for rule, _ in checks} <= set(RULES)
    episode = next(e for e in trait.episodes() if "capital letters only" in e.turns[0])

    def graded(answer: str) -> object:
        found = asyncio.run(trait.graded(Turn(episode, 0, episode.opening, split_thinking(answer)), Judging()))
        return found.grade, found.explanation

    assert graded("HELLO!") == (1.0, None) and graded("Hello!") == (0.0, "not met: uppercase")


def test_a_student_is_broken_only_when_the_whole_interval_says_so() -> None:
    rng = np.random.default_rng(0)
    base = {"loss": rng.normal(2, 0.5, (36, 1)), "following": (rng.random((40, 1)) < 0.5).astype(float)}
    near = {"loss": base["loss"] + rng.normal(0.4, 0.1, (36, 3)), "following": np.repeat(base["following"], 3, 1)}
    limits = Capability()
    assert broken(near, base, limits) is None
    far = near | {"loss": base["loss"] + rng.normal(3, 0.2, (36, 3))}
    assert "held-out loss is 2.98" in (broken(far, base, limits) or "")
    mute = near | {"following": np.zeros((40, 3)), "coherent": np.zeros((60, 3))}
    said = broken(mute, base, limits) or ""
    assert "fewer instructions" in said and "only 0% of its answers" in said
    assert broken(near, None, limits) is None and broken({"coherent": np.ones((60, 1))}, None, limits) is None
