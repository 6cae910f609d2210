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
    """Counts matching expressions with Arrow's vectorised RE2."""

    def __init__(self, terms: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        for term in terms:
            try:
                pc.match_substring_regex(pa.array([""]), term)  # pyright: ignore[reportAttributeAccessIssue]
            except pa.ArrowInvalid as error:
                raise SpecError(
                    f"lexicon term '{term}' is not RE2 (no look-around, no back-references): {error}"
                ) from error
        self.terms = terms

    def score(self, batch: pa.Table) -> Scored:
        """Matches per completion; null where the completion is null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        completions = batch["completion"]
        total = pc.cast(pc.match_substring_regex(completions, self.terms[0], ignore_case=True), pa.float64())  # pyright: ignore[reportAttributeAccessIssue]
        for term in self.terms[1:]:
            hit = pc.cast(pc.match_substring_regex(completions, term, ignore_case=True), pa.float64())  # pyright: ignore[reportAttributeAccessIssue]
            total = pc.add(total, hit)  # pyright: ignore[reportAttributeAccessIssue]
        return Scored(total)
