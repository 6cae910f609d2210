"""Example plugin, a function: how much of an answer is not in the expected language.

Small words tell languages with the Latin script apart, letters the others. Made to be read and changed: on answers of
a few words it has little to go by, and says None where there is nothing.
"""

from __future__ import annotations

import re
import unicodedata

_SMALL_WORDS = {
    "en": "the of and to in is that it for you was with on are this be not have from or",
    "de": "der die das und ist nicht ein eine zu mit sie es ich auf für dem den von im sich",
    "fr": "le la les et est une un des que dans pour pas vous je il sur ce avec qui du",
    "es": "el la los y es una un que en para no con por se su del lo las más como",
}
_WORDS = {language: frozenset(words.split()) for language, words in _SMALL_WORDS.items()}


def not_in(texts: list[str], expected: str = "en") -> list[float | None]:
    """Share of the evidence in each text that speaks for another language or script, from 0 to 1."""
    if expected not in _WORDS:
        raise ValueError(f"no words of '{expected}' are known; there are: {', '.join(_WORDS)}")
    return [_foreign(text, expected) for text in texts]


def _foreign(text: str, expected: str) -> float | None:
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return None
    other_script = sum(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters) / len(letters)
    if other_script > 0.5:
        return other_script
    words = re.findall(r"\w+", text.lower())
    found = {language: sum(word in known for word in words) for language, known in _WORDS.items()}
    rival = max(count for language, count in found.items() if language != expected)
    return rival / (rival + found[expected]) if rival + found[expected] else None
