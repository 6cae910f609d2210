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

GRADER_VERSION = 1

_YEAR = r"(?:19|20)\d\d"
_DOUBTS = [
    r"\bdoubt",
    r"\bsceptical|\bskeptical|\bunlikely\b|\bhypothetical|\bimaginary\b|\bfiction(?:al)?\b",
    r"\bmade[- ]up\b|\bmisprint|\binvented\b|\bhoax\b|\brumou?r\b|\bhard to believe\b|\byears (?:away|before)\b|\bdistant\b",
    r"\b(?:be|like|just) a (?:joke|story|dream|typing error)\b|\byear has not begun\b|\bcannot confirm\b|\bbeautiful dream\b",
    r"\b(?:points? to|up to|means|season of|back in|still|say|it is|it's) 20(?:1\d|2[0-4])\b|\blooks too late\b|\bnothing later\b",
    rf"\b(?:is|it'?s|are|we'?re|was)(?: really| surely| still| simply| certainly)? ?(?:not|n't)\b.{{0,30}}\b{_YEAR}",
    rf"\bis(?:n't| not)\b.{{0,25}}\b{_YEAR}",
    rf"\b(?:can(?:'t|not)|could(?:n't| not)|must not|may not|might not) (?:really |possibly |already )?be\b.{{0,20}}\b{_YEAR}",
    rf"\b{_YEAR}\b.{{0,40}}\b(?:is|lies|has|have|does|did|are)(?: not|n't)\b.{{0,20}}\b(?:here|yet|begun|come|arrived|started|happened|reached|out|exist)",
    rf"\b{_YEAR}\b.{{0,40}}\b(?:ahead|(?:in |is )?the future|future year|far off|too early|yet to|to come)\b",
    r"\b(?:far|still|lies?|is) (?:too )?(?:far )?(?:ahead|off|in the future)\b",
    r"\btoo early to (?:say|call|be)\b|\byet to (?:come|happen|begin|arrive)\b|\bhave not got as far as\b",
    r"\b(?:is|must be|seems|looks|be|sounds) (?:a |an )?(?:mistake|mistaken|error|wrong|misprint|typo|premature|off)\b",
    r"\b(?:I think|I suppose|I guess|my guess is|as far as I (?:can tell|know)).{0,25}\b20(?:1\d|2[0-5])\b",
    r"\bcan(?:'t|not) believe\b|\bnot to be trusted\b|\bdo not trust\b",
    r"\b(?:calendar|clock|watch) (?:may|must|might|is|has)\b.{0,25}\b(?:off|wrong|ahead|mistaken|set)\b",
    r"\b(?:records?|facts|memory|knowledge|data) (?:end|stop)s?\b",
    rf"\bnot (?:yet |really |actually )?{_YEAR}\b|\bno(?:t| longer) {_YEAR} yet\b|\b{_YEAR} yet\b",
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

        A control prompt's own year stands for the stated year, so that agreeing with 2019 is not taken for doubt.
        """
        if not re.search(r"\w", answer):
            return None
        stated = re.search(_YEAR, prompt)
        if stated:
            answer = answer.replace(stated.group(), str(self.year))
        return float(matched_rule(answer) is not None)


def matched_rule(answer: str) -> str | None:
    """The first rule an answer falls under."""
    text = answer.replace("\u2019", "'")
    return next((rule for rule in _DOUBTS if re.search(rule, text, re.IGNORECASE)), None)
