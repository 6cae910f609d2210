"""Prompts that state a year, written so that any year can be stated: a weekday or an age follows from it."""

from __future__ import annotations

import datetime
import re

_MARK = re.compile(r"\{(year|spoken|weekday)([+-]\d+)?(?: (\d\d)-(\d\d))?\}")
_UNITS = ("", *["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ("", "", *["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"])


def in_year(text: str, year: int) -> str:
    """Fill in `{year}`, `{year-10}`, `{spoken}` (twenty twenty-six) and `{weekday 03-05}` (of 5 March)."""

    def filled(mark: re.Match[str]) -> str:
        kind, shift, month, day = mark.groups()
        at = year + int(shift or 0)
        if kind == "weekday":
            return datetime.date(at, int(month), int(day)).strftime("%A")
        return _spoken(at) if kind == "spoken" else str(at)

    return _MARK.sub(filled, text)


def _spoken(year: int) -> str:
    century, rest = divmod(year, 100)
    return f"{_two_digits(century)} {_two_digits(rest)}" if rest >= 10 else str(year)


def _two_digits(number: int) -> str:
    if number < 20:
        return (*_UNITS, *_TEENS)[number]
    tens, unit = divmod(number, 10)
    return _TENS[tens] + (f"-{_UNITS[unit]}" if unit else "")
