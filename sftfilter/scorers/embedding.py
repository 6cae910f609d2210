"""Likeness to example texts in the space of a sentence encoder: the cheap baseline.

Sentence embeddings as in Reimers and Gurevych 2019 (arXiv:1908.10084): mean over the tokens of the last layer, unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sftfilter.config import AnswersPath, LabelledPath
from sftfilter.reading.answers import content_hash, read_answers
from sftfilter.scorers.contract import Scored, ScorerSettings
from sftfilter.scorers.trait_answers import read_labelled
from sftfilter.sentence_encoder import BUILTIN_ENCODER, encoder_hash, resolve_encoder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from sftfilter.sentence_encoder import SentenceEncoder

_EXAMPLES = "examples.safetensors"


class Embedding(ScorerSettings):
    """Cosine of a completion to the positive examples, less that to the negative ones if there are any.

    `centroid` is the cosine to the mean of the examples' embeddings, `nearest` the cosine to the nearest example.
    A completion that is longer than the encoder reads (256 tokens for the built-in one) is read in windows; its embedding is
    the mean over all their tokens.

    Known confounds: topic above all, then length and language; an answer that denies an example resembles it.
    """

    kind: Literal["embedding"]
    positives: Annotated[tuple[str, ...], Field(description="texts that show the trait")] = ()
    positives_file: Annotated[
        AnswersPath | None, Field(description="rows with `prompt` and `completion`; the latter are more of them")
    ] = None
    negatives: Annotated[tuple[str, ...], Field(description="texts that do not")] = ()
    negatives_file: Annotated[
        AnswersPath | None, Field(description="rows with `prompt` and `completion`; the latter are more of them")
    ] = None
    labelled: Annotated[
        LabelledPath | None,
        Field(description="both in one file: `prompt`, `completion`, `label` (1 positive, 0 negative)"),
    ] = None
    compare: Literal["centroid", "nearest"] = "centroid"
    model: Annotated[str, Field(description=f"'{BUILTIN_ENCODER}', or a sentence-transformers folder or hub id")] = (
        BUILTIN_ENCODER
    )
    dtype: Literal["bfloat16", "float32"] = "float32"
    tokens_per_pass: Annotated[int, Field(gt=0)] = 8192

    heavy: ClassVar[bool] = True
    batch: ClassVar[int] = 1024
    aside: ClassVar[frozenset[str]] = frozenset(
        {"model", "positives_file", "negatives_file", "labelled", "tokens_per_pass"}
    )

    @model_validator(mode="after")
    def _examples(self) -> Embedding:
        named = self.positives or self.negatives or self.positives_file or self.negatives_file
        if self.labelled and named:
            raise ValueError("give either `labelled`, or `positives` and `negatives`, as texts or files")
        if not self.labelled and not self.positives and self.positives_file is None:
            raise ValueError("needs `labelled`, `positives` or `positives_file`")
        return self

    def inputs(self) -> Sequence[str]:
        """Hashes of the encoder and of the examples' files."""
        files = [content_hash(path) if path else "none" for path in (self.positives_file, self.negatives_file)]
        files += [f"labelled {content_hash(self.labelled)}"] if self.labelled else []
        return [encoder_hash(resolve_encoder(self.model)), *files]

    def prepare(self, folder: Path, device: str) -> None:
        """Embed the examples.

        Raises:
            DataError: a row of a file cannot be used.
        """
        from safetensors.numpy import save_file

        encoder = self._encoder(device)
        kept = {}
        for name, texts in self._texts().items():
            if texts:
                vectors = encoder.encode(texts)
                kept[name] = vectors if self.compare == "nearest" else _centroid(vectors)
        save_file(kept, folder / _EXAMPLES)

    def load(self, folder: Path, device: str) -> EmbeddingScorer:
        """The scorer, on the worker."""
        from safetensors.numpy import load_file

        kept = load_file(folder / _EXAMPLES)
        return EmbeddingScorer(self._encoder(device), kept["positives"], kept.get("negatives"))

    def _texts(self) -> dict[str, list[str]]:
        if self.labelled:
            answers = read_labelled(self.labelled)
            return {
                name: [one.completion for one in answers if one.shows is shows]
                for name, shows in (("positives", True), ("negatives", False))
            }
        given = {"positives": (self.positives, self.positives_file), "negatives": (self.negatives, self.negatives_file)}
        return {
            name: [*texts, *(row.completion or "" for row in (read_answers(path) if path else []))]
            for name, (texts, path) in given.items()
        }

    def _encoder(self, device: str) -> SentenceEncoder:
        from sftfilter.sentence_encoder import SentenceEncoder

        return SentenceEncoder(resolve_encoder(self.model), self.dtype, device, self.tokens_per_pass)


class EmbeddingScorer:
    """An encoder, and unit vectors [K, D] of what is like the trait and what is not."""

    def __init__(self, encoder: SentenceEncoder, positives: np.ndarray, negatives: np.ndarray | None) -> None:
        self.encoder = encoder
        self.positives = positives
        self.negatives = negatives

    def score(self, batch: pa.Table) -> Scored:
        """Cosine, or the difference of two; an error where the completion is empty."""
        import pyarrow as pa

        texts = batch["completion"].to_pylist()
        good = [i for i, text in enumerate(texts) if text and text.strip()]
        vectors = self.encoder.encode([texts[i] for i in good])
        found = (vectors @ self.positives.T).max(1)
        if self.negatives is not None:
            found = found - (vectors @ self.negatives.T).max(1)
        scores: list[float | None] = [None] * len(texts)
        for i, value in zip(good, found.tolist(), strict=True):
            scores[i] = value
        empty = [None if text is None or text.strip() else "the completion is empty" for text in texts]
        return Scored(pa.array(scores, pa.float64()), pa.array(empty, pa.string()))


def _centroid(vectors: np.ndarray) -> np.ndarray:
    """The mean direction, [1, D]."""
    import numpy as np

    mean = vectors.mean(0, keepdims=True)
    return mean / np.linalg.norm(mean)
