"""How many of a list of expressions an answer contains: the naive filter, and a negative control (traits survive it)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import field_validator

from sftfilter.errors import SpecError
from sftfilter.scorers.contract import Scored, ScorerSettings

if TYPE_CHECKING:
    import pyarrow as pa


class Lexicon(ScorerSettings):
    """Regular expressions (RE2 syntax, case ignored); the score is how many of them match the completion."""

    kind: Literal["lexicon"]
    terms: list[str]

    batch: ClassVar[int] = 16_384

    @field_validator("terms")
    @classmethod
    def _compile(cls, terms: list[str]) -> list[str]:
        if not terms:
            raise ValueError("needs at least one expression")
        for term in terms:
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

    Most rows match none, so one pass looks for any of them, and only the rows that have one are asked for each.
    """

    def __init__(self, terms: list[str]) -> None:
        import pyarrow as pa

        for term in terms:
            try:
                _matches(pa.array([""]), term)
            except pa.ArrowInvalid as error:
                raise SpecError(
                    f"lexicon term '{term}' is not RE2 (no look-around, no back-references): {error}"
                ) from error
        self.terms = terms
        self.any_term = _together(terms)

    def score(self, batch: pa.Table) -> Scored:
        """Matches per completion; null where the completion is null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        completions = pa.chunked_array(batch["completion"]).combine_chunks()
        if self.any_term is None:
            return Scored(self._count(completions))
        hit = _matches(completions, self.any_term)
        counts = self._count(completions.filter(hit))
        return Scored(pc.replace_with_mask(hit.cast(pa.float64()), hit, counts))  # pyright: ignore[reportAttributeAccessIssue]

    def _count(self, texts: pa.Array) -> pa.Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        total = _matches(texts, self.terms[0]).cast(pa.float64())
        for term in self.terms[1:]:
            total = pc.add(total, _matches(texts, term).cast(pa.float64()))  # pyright: ignore[reportAttributeAccessIssue]
        return total


def _matches(texts: pa.Array, expression: str) -> pa.BooleanArray:
    import pyarrow.compute as pc

    return pc.match_substring_regex(texts, expression, ignore_case=True)  # pyright: ignore[reportAttributeAccessIssue]


def _together(terms: list[str]) -> str | None:
    """One expression for any of the terms; None for a single one, or where RE2 does not take them together."""
    import pyarrow as pa

    expression = "|".join(f"(?:{term})" for term in terms)
    try:
        _matches(pa.array([""]), expression)
    except pa.ArrowInvalid:
        return None
    return expression if len(terms) > 1 else None
