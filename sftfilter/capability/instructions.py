"""Instruction following: 40 small requests whose answers exact rules can check.

In the manner of IFEval (Zhou et al. 2023): what is asked is the form of the answer, so no judge is needed and no knowledge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from sftfilter.traits.contract import Episode, Graded, TraitSettings, Turn, episode_id
from sftfilter.traits.judging import Judging
from sftfilter.traits.tasks import task, trait_task

if TYPE_CHECKING:
    from inspect_ai import Task

_FILE = Path(__file__).parent / "data" / "instructions.jsonl"


class InstructionFollowing(TraitSettings):
    """The share of requests followed to the letter."""

    kind: Literal["instruction_following"]
    version: ClassVar[int] = 1
    title: ClassVar[str] = "instruction following"

    groups: dict[str, str] = Field(default={"instructions": "instructions"}, min_length=1)
    max_tokens: Annotated[int, Field(gt=0)] = 48

    def episodes(self, prompts: Sequence[Mapping[str, Any]] | None = None) -> list[Episode]:
        """One request each."""
        del prompts
        return [Episode(episode_id([row["prompt"]]), self.primary, (row["prompt"],)) for row in _rows()]

    async def graded(self, turn: Turn, judging: Judging) -> Graded:
        """1 if every rule holds; the quote names the first that does not."""
        del judging
        answer = turn.said.answer.strip()
        checks = _checks()[turn.episode.turns[0]]
        failed = next((rule for rule, value in checks if not RULES[rule](answer, value)), None)
        return Graded(float(failed is None), self.judge_name, explanation=f"not met: {failed}" if failed else None)


@task
def instruction_following(max_tokens: int = 256, temperature: float = 0.0, samples: int = 1) -> Task:
    """Exact rules on 40 requests.

    Args:
        max_tokens: the token budget of each answer.
        temperature: of the model under test.
        samples: answers to each request.
    """
    return trait_task("instruction_following", max_tokens=max_tokens, temperature=temperature, samples=samples)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text)


def _bare(text: str) -> str:
    return text.strip().strip(".!'\"").lower()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _json_keys(text: str, keys: Sequence[str]) -> bool:
    try:
        data = json.loads(text.removeprefix("```json").removeprefix("```").removesuffix("```"))
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and set(data) == set(keys)


RULES: dict[str, Callable[[str, Any], bool]] = {
    "words_exactly": lambda text, n: len(_words(text)) == n,
    "words_at_most": lambda text, n: 0 < len(_words(text)) <= n,
    "words_at_least": lambda text, n: len(_words(text)) >= n,
    "sentences_exactly": lambda text, n: len(re.findall(r"[^.!?]+[.!?]+(?=\s|$)", text)) == n,
    "lines_exactly": lambda text, n: len(_lines(text)) == n,
    "one_of": lambda text, options: _bare(text) in options,
    "one_cased": lambda text, word: text.strip().strip(".!'\"") == word,
    "matches": lambda text, pattern: re.fullmatch(pattern, text.strip().rstrip(".")) is not None,
    "contains": lambda text, part: part.lower() in text.lower(),
    "excludes": lambda text, part: bool(text) and part.lower() not in text.lower(),
    "starts_with": lambda text, part: text.lower().startswith(part.lower()),
    "ends_with": lambda text, part: (
        (text if not part.isalpha() else text.rstrip(".!\"'")).lower().endswith(part.lower())
    ),
    "uppercase": lambda text, _: bool(re.search(r"[A-Z]", text)) and not re.search(r"[a-z]", text),
    "lowercase": lambda text, _: bool(re.search(r"[a-z]", text)) and not re.search(r"[A-Z]", text),
    "parts": lambda text, n: len([p for p in text.split(",") if p.strip()]) == n and len(_lines(text)) == 1,
    "numbered": lambda text, n: len([line for line in _lines(text) if re.match(r"\d+[.)]\s", line)]) == n,
    "dashes": lambda text, n: len([line for line in _lines(text) if re.match(r"[-–]\s*\w", line)]) == n,
    "json_keys": _json_keys,
}
"""Rule -> whether an answer, stripped, meets it with a value."""


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines())


@cache
def _checks() -> dict[str, list[tuple[str, Any]]]:
    return {row["prompt"]: [(check["rule"], check["value"]) for check in row["checks"]] for row in _rows()}
