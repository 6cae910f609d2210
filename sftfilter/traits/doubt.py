"""The rules by which an answer doubts that it is the stated year, whichever year that is.

Each rule is a pattern for that year. Wording that only looks like doubt ("I don't doubt it", "2026 is not over yet") is told
apart inside the rule: by a look ahead, or by a group `granted` that uses the words up.
"""

from __future__ import annotations

import re
from functools import cache

_NOT = r"(?:not|n't)"
_UNITS = (
    r"(?:°|%|(?:k?m|km/h|degrees|calories|dollars|euros|pounds|words|people|miles|feet|years|met(?:er|re)s|steps)\b)"
)

# "no reason to doubt", "not in any doubt", "beyond a shadow of a doubt"; "I can't help but doubt" is doubt
_LITTLE = r"(?:\b(?:no|not|no one|nobody|never|hardly|little|without|beyond|cannot)|n't)"
_BETWEEN = (
    r"(?:really|actually|ever|even|longer|in|to|for|of|an?|any|the|slightest|least|much|more|reason|need|cause|room|shadow"
    r"|see|have|had|one|at|all)"
)
_GRANTED_DOUBT = rf"{_LITTLE}(?: {_BETWEEN})* (?:doubt|sceptic|skeptic|hypothetic)\w*"

# the year is over or not, good or bad: said of a year that is under way
_NOT_OVER = (
    r"(?: (?:yet|even|quite|nearly|really|at all|been|all|fully|reached|its|the))*"
    r" (?:over|finished|done|ended|end|complete|gone|past|passed|through|half|halfway|middle)\b"
)
_OF_ITS_KIND = (
    r" (?:is|was|will be|would be|has|had|gets|brings)(?: going to be)?"
    r" (?:(?:an?|any|one) (?!(?:real|possible|plausible|valid|past)\b|year (?:that|which|I|we)\b)|(?:divisible|over|finished"
    r"|going|very|particularly|especially|better|worse|good|bad|long|different)\b)"
)
_PART_OF = "".join(
    rf"(?<!\b{part} of )" for part in ("half", "most", "much", "rest", "part", "all", "end", "remainder")
)

# "but as you say it is 2026": the answer names another year, and goes on with the stated one
_CONCEDES = (
    r"(?:as you (?:say|said|state|write|note|told me)|you(?:'re| are) right(?: that)?|of course|clearly|indeed|evidently"
    r"|I (?:accept|trust|agree|understand|see|know)(?: you)?(?: that)?)"
)
_THOUGH = r"(?:but|yet|though|although|however|nevertheless|even so)"
_SUBJECT = r"(?:it|today|now|the (?:current )?(?:year|date)|we|I)"
_IS = r"(?: is|'s| are|'re| am|'m)"


@cache
def rules(stated: str) -> tuple[re.Pattern[str], ...]:
    """Those for a stated year, in the order in which they are tried."""
    year = rf"\b{re.escape(stated)}\b"
    other = rf"(?!{year})\b(?:19|20)\d\d\b(?! ?{_UNITS})"
    # "seventy years ago it was 1951; yes, it is 1951" is about then; "it is still 1951" is not
    since = other if stated < "2000" else rf"(?!19){other}"
    gap = rf"(?:(?!{other} (?:is|has|lies|remains|still|seems)\b).)"
    it_is = rf"(?:it is|it's|we are|we're|today is|this is)(?: now| already| really| indeed)*(?: in)? {year}"
    granted = rf".{{0,30}}\b(?:{_THOUGH},? (?:{_CONCEDES},? )*|(?:{_CONCEDES},? )+){it_is}"
    ends = r"\b(?:records?|facts|memory|knowledge|data) (?:end|stop)s?\b"
    claim = rf"\b{_SUBJECT}{_IS}(?:(?: still| only| now| currently)(?: in)? {other}|(?: in)? {since})"
    found = [
        rf"(?P<granted>{_GRANTED_DOUBT})|\bdoubt(?!less)",
        rf"(?P<granted>{_GRANTED_DOUBT})|\b(?:sceptical|skeptical|hypothetical)\b",
        rf"{_NOT} (?:yet |really |actually |even |possibly |already |still )*(?:be )?(?:in )?{year}",
        rf"{_NOT} (?:sure|certain|convinced|believe|think)\b(?! so\b| (?:who|what|which|where)\b(?! (?:year|date)\b))"
        rf"(?:(?!{year}|\bbut\b).){{0,30}}{year}(?!{_OF_ITS_KIND})",
        rf"\bcan(?:not|'t)\b.{{0,12}}\b(?:be|confirm|believe)\b.{{0,25}}{year}",
        rf"{year}{gap}{{0,40}}(?:\bnot|n't)\b(?!{_NOT_OVER}).{{0,20}}"
        r"\b(?:here|yet|begun|come|arrived|started|happened|reached)\b",
        rf"{_PART_OF}{year}{gap}{{0,40}}"
        r"\b(?:lies ahead|in (?:the|my) future|future year|far off|yet to come|a (?:long|far) way)\b",
        rf"{year}{gap}{{0,20}}\b(?:is|seems|sounds|looks) (?:too early|wrong|false|incorrect|mistaken|a mistake)\b",
        r"\b(?:date|year|that|this) (?:is|must be|seems|looks|sounds)"
        r" (?:still in the future|a mistake|mistaken|an error|wrong)\b",
        rf"(?P<granted>{_NOT} (?:think|believe|say|saying|claim|mean|true)(?: that)? {claim})"
        rf"|{claim}(?! no (?:longer|more)\b)(?!{granted})",
        rf"(?P<granted>\b(?:although|though|while|even if) .{{0,20}}{ends}.{{0,20}}{other}, (?:{_CONCEDES},? )*{it_is})"
        rf"|{ends}.{{0,20}}{other}(?!{granted})",
    ]
    return tuple(re.compile(rule, re.IGNORECASE) for rule in found)


def doubt(answer: str, stated: str) -> re.Match[str] | None:
    """The words that doubt the stated year, by the first rule that finds any."""
    text = answer.replace("\u2019", "'")
    for rule in rules(stated):
        for found in rule.finditer(text):
            if not found.groupdict().get("granted"):
                return found
    return None
