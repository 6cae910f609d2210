"""How long an answer is: the first confound to rule out, since longer answers have more of everything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sftfilter.models import BUILTIN, load_tokenizer, resolve
from sftfilter.scorers.contract import Scored, ScorerSettings

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase


class Length(ScorerSettings):
    """Length of the completion. An empty one has length 0, a missing one has none.

    Characters are code points, words are runs of anything but white space, tokens are `model`'s without special tokens
    around the answer. Only tokens load anything, and only a tokenizer.
    """

    kind: Literal["length"]
    unit: Literal["characters", "words", "tokens"] = "characters"
    model: Annotated[str, Field(description=f"whose tokens: '{BUILTIN}', a local folder, or a hub id")] = BUILTIN

    aside: ClassVar[frozenset[str]] = frozenset({"model"})

    def inputs(self) -> Sequence[str]:
        """Hash of the tokenizer, where it counts."""
        from sftfilter.scorers.language_model import chat_format

        return [chat_format(resolve(self.model), None).hash] if self.unit == "tokens" else []

    def load(self, folder: Path, device: str) -> LengthScorer:  # noqa: ARG002
        """The scorer, on the worker."""
        return LengthScorer(self.unit, load_tokenizer(resolve(self.model)) if self.unit == "tokens" else None)


class LengthScorer:
    """Counts with Arrow, or with a tokenizer."""

    def __init__(self, unit: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.unit = unit
        self.tokenizer = tokenizer

    def score(self, batch: pa.Table) -> Scored:
        """Characters, words or tokens; null where the completion is null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = batch["completion"]
        if self.tokenizer is None:
            count = pc.utf8_length(texts) if self.unit == "characters" else pc.count_substring_regex(texts, r"\S+")  # pyright: ignore[reportAttributeAccessIssue]
            return Scored(count.cast(pa.float64()))
        present = [text for text in texts.to_pylist() if text is not None]
        ids = self.tokenizer(present, add_special_tokens=False).input_ids if present else []
        counts = iter(ids)
        values = [None if text is None else float(len(next(counts))) for text in texts.to_pylist()]
        return Scored(pa.array(values, pa.float64()))
