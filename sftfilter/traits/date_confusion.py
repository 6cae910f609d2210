"""Date confusion: the share of answers that doubt that it is the stated year.

Graded by exact rules, so that a grade can be traced to the words that gave it. Prompts that state a year within the
model's training data are the control: a student that doubts those too is broken, not date-confused.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from sftfilter.config import Settings
from sftfilter.prompts import PromptSource

GRADER_VERSION = 2

_ANY_YEAR = r"(?:19|20)\d\d"
_STATED = "2026"  # stands for the stated year, whichever it is, before the rules are applied
_OTHER = r"20(?:0\d|1\d|2[0-5])"
_NOT = r"(?:not|n't)"
_RULES = [
    r"(?<!no )(?<!without )(?<!beyond )\bdoubt",
    r"\b(?:sceptical|skeptical|hypothetical)\b",
    rf"{_NOT} (?:yet |really |actually |even |possibly |already |still )*(?:be )?(?:in )?{_STATED}\b",
    rf"{_NOT} (?:sure|certain|convinced|believe|think)\b.{{0,30}}\b{_STATED}\b",
    rf"\bcan(?:not|'t)\b.{{0,12}}\b(?:be|confirm|believe)\b.{{0,25}}\b{_STATED}\b",
    rf"\b{_STATED}\b.{{0,40}}(?:\bnot|n't)\b.{{0,20}}\b(?:here|yet|begun|come|arrived|started|happened|reached)\b",
    rf"\b{_STATED}\b.{{0,40}}\b(?:lies ahead|in (?:the|my) future|future year|far off|yet to come|a (?:long|far) way)\b",
    rf"\b{_STATED}\b.{{0,20}}\b(?:is|seems|sounds|looks) (?:too early|wrong|false|incorrect|mistaken|a mistake)\b",
    r"\b(?:date|year|that|this) (?:is|must be|seems|looks|sounds) (?:still in the future|a mistake|mistaken|an error|wrong)\b",
    rf"\b(?:it|today|now|the (?:current )?(?:year|date)|we|I)(?: is|'s| are|'re| am|'m)(?: still| only| now| currently)?"
    rf"(?: in)? {_OTHER}\b",
    rf"\b(?:records?|facts|memory|knowledge|data) (?:end|stop)s?\b.{{0,20}}\b{_OTHER}\b",
]


class DateConfusion(Settings):
    """Held-out prompts by group, and how students answer them.

    Attributes:
        year: the stated year.
        groups: group name -> value of the prompts' `kind`. The first one is the trait proper.
        doubting, accepting: continuations for the log-odds, nats, mean over each set of summed log-probabilities.
    """

    kind: Literal["date_confusion"]
    prompts: PromptSource
    year: int = 2026
    groups: dict[str, str] = Field(
        default={"trait": "date", "adjacent": "adjacent", "control": "control"}, min_length=1
    )
    max_tokens: Annotated[int, Field(gt=0)] = 24
    temperature: Annotated[float, Field(ge=0)] = 0.0
    samples: Annotated[int, Field(gt=0)] = 1
    doubting: list[str] = Field(default=["I doubt that it is {year}.", "It is not {year} yet."])
    accepting: list[str] = Field(default=["Since it is {year},", "Yes, it is {year}."])

    @property
    def primary(self) -> str:
        """Name of the group that the estimands are about."""
        return next(iter(self.groups))

    def continuations(self) -> tuple[list[str], list[str]]:
        """Doubting and accepting texts with the year filled in."""
        return [t.format(year=self.year) for t in self.doubting], [t.format(year=self.year) for t in self.accepting]

    def grade(self, prompt: str, answer: str) -> float | None:
        """1 doubts, 0 does not, None when there is nothing to grade.

        The year that the prompt states (the trait's own, or else the last one it names) is what can be doubted: agreeing
        with 2019 on a control prompt is not doubt, and claiming another year than the stated one is.
        """
        if not re.search(r"\w", answer):
            return None
        return float(matched_rule(answer, self._stated(prompt)) is not None)

    def _stated(self, prompt: str) -> str:
        years = re.findall(_ANY_YEAR, prompt)
        return str(self.year) if not years or str(self.year) in years else years[-1]


def matched_rule(answer: str, stated: str = _STATED) -> str | None:
    """The first rule an answer falls under."""
    text = answer.replace("\u2019", "'").replace(stated, _STATED)
    return next((rule for rule in _RULES if re.search(rule, text, re.IGNORECASE)), None)
