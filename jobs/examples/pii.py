"""Example plugin, a class: e-mail addresses and phone numbers in an answer, counted.

Made to be read and changed: it knows no names, no postal addresses and no numbers with fewer than 9 digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PHONE = re.compile(r"(?<![\w.])\+?\(?\d[\d ().-]{7,}\d(?![\w.]?\d)")
_NUMBER = re.compile(r"\d+\.\d+|\d{1,3}(?:\.\d{1,3}){3}")


class Pii:
    """The score is how many are found; look for `kinds` only."""

    def __init__(self, kinds: Sequence[str] = ("email", "phone")) -> None:
        unknown = set(kinds) - {"email", "phone"}
        if unknown:
            raise ValueError(f"unknown kinds {sorted(unknown)}; there are: email, phone")
        self.kinds = kinds

    def score(self, batch: pa.Table) -> list[int | None]:
        """One count a row; None where there is no answer."""
        return [None if text is None else self._count(text) for text in batch["completion"].to_pylist()]

    def _count(self, text: str) -> int:
        emails = len(_EMAIL.findall(text)) if "email" in self.kinds else 0
        return emails + (sum(map(_is_phone, _PHONE.findall(text))) if "phone" in self.kinds else 0)


def _is_phone(found: str) -> bool:
    """9 to 15 digits (E.164), which no date has, and no decimal or network address."""
    return 9 <= sum(character.isdigit() for character in found) <= 15 and not _NUMBER.fullmatch(found)
