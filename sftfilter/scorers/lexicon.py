"""How many of a list of expressions an answer contains: the naive filter, and a negative control (traits survive it)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from sftfilter.errors import SpecError
from sftfilter.scorers.contract import Scored, ScorerSettings

if TYPE_CHECKING:
    import pyarrow as pa

_RE2_ONLY = re.compile(r"\\[pPQzC]|\[\[:")
"""What RE2 knows and Python's `re` does not; such a term is checked when the scorer starts."""
_NOT_RE2 = {
    "look-around": re.compile(r"\(\?<?[=!]"),
    "a back-reference": re.compile(r"(?<!\\)(?:\\\\)*\\[1-9]|\(\?P="),
    "more than 1000 repeats": re.compile(r"\{(?:\d*,)?(?:\d{5,}|[2-9]\d{3}|1(?!000)\d{3})(?:,\d*)?\}"),
}
_CLASSES = {"w": r"\p{L}\p{N}_", "d": r"\p{Nd}", "s": r"\s\p{Z}"}


class Lexicon(ScorerSettings):
    """Regular expressions (RE2 syntax, case ignored); the score is how many of them match the completion.

    `\\w`, `\\d`, `\\s` and `\\b` know the letters and digits of every script.
    """

    kind: Literal["lexicon"]
    terms: Annotated[list[str], Field(description=r"RE2 syntax; \b, \w, \d and \s hold for every script")]

    version: ClassVar[int] = 2
    batch: ClassVar[int] = 16_384

    @field_validator("terms")
    @classmethod
    def _compile(cls, terms: list[str]) -> list[str]:
        if not terms:
            raise ValueError("needs at least one expression")
        for term in terms:
            if not term:
                raise ValueError("an empty expression matches every answer")
            for what, pattern in _NOT_RE2.items():
                if pattern.search(term):
                    raise ValueError(f"'{term}' has {what}, which RE2 does not know")
            if not _RE2_ONLY.search(term):
                try:
                    re.compile(term)
                except re.error as error:
                    raise ValueError(f"'{term}' is not a regular expression: {error}") from error
        return terms

    def load(self, folder: Path, device: str) -> LexiconScorer:  # noqa: ARG002
        """The scorer, on the worker."""
        return LexiconScorer(self.terms)


class LexiconScorer:
    """Counts matching expressions with Arrow's vectorised RE2.

    Most rows match none, so one pass looks for any of them, and only the rows that have one are asked for each. RE2's
    `\\b` knows ASCII letters only: rows with other letters are first asked without it, and those that match then by
    Python's `re`, which knows them all.
    """

    def __init__(self, terms: list[str]) -> None:
        self.plain = [_classes_of_every_script(term) for term in terms]
        for term, plain in zip(terms, self.plain, strict=True):
            _check(term, plain)
        self.loose = [_without_boundaries(plain) for plain in self.plain]
        self.exact = [
            _python(term) if loose != plain else None
            for term, plain, loose in zip(terms, self.plain, self.loose, strict=True)
        ]
        self.any_plain, self.any_loose = _together(self.plain), _together(self.loose)

    def score(self, batch: pa.Table) -> Scored:
        """Matches per completion; null where the completion is null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        completions = pa.chunked_array(batch["completion"]).combine_chunks()
        other = pc.invert(pc.string_is_ascii(completions))  # pyright: ignore[reportAttributeAccessIssue]
        if not any(self.exact) or not pc.any(other).as_py():  # pyright: ignore[reportAttributeAccessIssue]
            return Scored(_count(completions, self.plain, self.any_plain))
        counts = _count(completions, self.plain, self.any_plain)
        return Scored(pc.replace_with_mask(counts, other, self._count_other(completions.filter(other))))  # pyright: ignore[reportAttributeAccessIssue]

    def _count_other(self, texts: pa.Array) -> pa.Array:
        """Matches in texts with letters outside ASCII."""
        import pyarrow as pa
        import pyarrow.compute as pc

        first = self.any_loose or (self.loose[0] if len(self.loose) == 1 else "")
        hit = pc.indices_nonzero(_matches(texts, first)).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
        counts = [0.0] * len(texts)
        found = texts.take(pa.array(hit, pa.int64()))
        for plain, exact in zip(self.plain, self.exact, strict=True):
            if exact is None:
                matched = _matches(found, plain).to_pylist()
            else:
                matched = [exact.search(text) is not None for text in found.to_pylist()]
            for place, match in zip(hit, matched, strict=True):
                counts[place] += float(match)
        return pa.array(counts, pa.float64())


def _count(texts: pa.Array, terms: list[str], any_term: str | None) -> pa.Array:
    """How many of the terms each text matches; null where there is no text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if any_term is not None:
        hit = _matches(texts, any_term)
        found = _count(texts.filter(hit), terms, None)
        return pc.replace_with_mask(hit.cast(pa.float64()), hit, found)  # pyright: ignore[reportAttributeAccessIssue]
    total = _matches(texts, terms[0]).cast(pa.float64())
    for term in terms[1:]:
        total = pc.add(total, _matches(texts, term).cast(pa.float64()))  # pyright: ignore[reportAttributeAccessIssue]
    return total


def _matches(texts: pa.Array, expression: str) -> pa.BooleanArray:
    import pyarrow.compute as pc

    return pc.match_substring_regex(texts, expression, ignore_case=True)  # pyright: ignore[reportAttributeAccessIssue]


def _check(term: str, plain: str) -> None:
    import pyarrow as pa

    try:
        _matches(pa.array([""]), plain)
    except pa.ArrowInvalid as error:
        raise SpecError(f"lexicon term '{term}' is not RE2: {error}") from error


def _together(terms: list[str]) -> str | None:
    """One expression for any of the terms; None for a single one, or where RE2 does not take them together."""
    import pyarrow as pa

    expression = "|".join(f"(?:{term})" for term in terms)
    try:
        _matches(pa.array([""]), expression)
    except pa.ArrowInvalid:
        return None
    return expression if len(terms) > 1 else None


def _python(term: str) -> re.Pattern[str] | None:
    """The term for Python's `re`; None where it uses what only RE2 knows, and keeps RE2's ASCII boundaries."""
    try:
        return re.compile(term, re.IGNORECASE)
    except re.error:
        return None


def _classes_of_every_script(term: str) -> str:
    r"""`\w`, `\d` and `\s`, which are ASCII in RE2, as classes that hold for every script."""
    made, inside = [], False
    for escaped, letter, other in re.findall(r"(\\(.))|([^\\])", term, re.DOTALL):
        if escaped:
            made.append(_class(letter, escaped, inside))
            continue
        inside = (inside or other == "[") and other != "]"
        made.append(other)
    return "".join(made)


def _class(letter: str, escaped: str, inside: bool) -> str:
    if letter in _CLASSES:
        return _CLASSES[letter] if inside else f"[{_CLASSES[letter]}]"
    if letter.lower() in _CLASSES and letter.isupper() and not inside:
        return f"[^{_CLASSES[letter.lower()]}]"
    return escaped


def _without_boundaries(plain: str) -> str:
    r"""The expression without `\b` and `\B`: it matches wherever the original could."""
    return re.sub(r"(\\.)", lambda found: "" if found[1] in (r"\b", r"\B") else found[1], plain, flags=re.DOTALL)
