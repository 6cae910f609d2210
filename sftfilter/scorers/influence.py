"""Gradient influence: how far a training step on a row would move the model towards answers that show the trait.

To first order, a step on row z changes the loss of a query q by -lr * <grad L(z), grad L(q)> (TracIn, Pruthi et al. 2020,
arXiv:2002.08484, with one checkpoint). LESS (Xia et al. 2024, arXiv:2402.04333) selects instruction data by the cosine of
projected gradients instead, since the gradients of short answers are longer; that is the default here. Unlike LESS there
is no warm-up training and no Adam preconditioning: gradients are taken at `model` as it is, which may be the base or any
checkpoint. See `gradients` for the projection.

Cost: a forward and a backward pass by the activations alone, about twice the arithmetic of the perplexity scorer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sftfilter.config import AnswersPath, LabelledPath
from sftfilter.errors import DataError
from sftfilter.models import load_model, resolve
from sftfilter.reading.answers import content_hash, read_answers
from sftfilter.scorers.contract import Scored
from sftfilter.scorers.language_model import Answer, ModelScorer, chat_format, encode_answer, score_answers
from sftfilter.scorers.trait_answers import TraitAnswer, read_labelled

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from sftfilter.schema import Message

_DIRECTION = "direction.safetensors"


class Influence(ModelScorer):
    """Likeness of a row's loss gradient to the mean gradient of rows that show the trait, and unlikeness to others'.

    Known confounds: whatever the query's rows share besides the trait (length, topic, phrases); a contrast on the same
    prompts takes most of that off. Without one, rows of any kind that the model finds unlikely tend to score high.
    """

    kind: Literal["influence"]
    query: Annotated[
        AnswersPath | None, Field(description="JSONL with `prompt` and a `completion` that shows the trait")
    ] = None
    contrast: Annotated[
        AnswersPath | None, Field(description="the same without the trait; its mean gradient is taken off the query's")
    ] = None
    labelled: Annotated[
        LabelledPath | None,
        Field(description="both in one JSONL: `prompt`, `completion`, `label` (1 query, 0 contrast)"),
    ] = None
    similarity: Annotated[
        Literal["cosine", "dot"], Field(description="cosine of gradients, or their product: long rows weigh more")
    ] = "cosine"
    rank: Annotated[int | None, Field(gt=0, description="of the projection of each side; null: none")] = 16
    last_blocks: Annotated[int | None, Field(gt=0, description="only so many last decoder blocks: cheaper")] = None
    seed: Annotated[int, Field(description="of the projection")] = 0

    batch: ClassVar[int] = 256
    aside: ClassVar[frozenset[str]] = ModelScorer.aside | {"query", "contrast", "labelled"}

    @model_validator(mode="after")
    def _one_recipe(self) -> Influence:
        if (self.labelled is None) == (self.query is None) or (self.labelled and self.contrast):
            raise ValueError("give either `labelled`, or `query` (and `contrast`, if you like)")
        return self

    def inputs(self) -> Sequence[str]:
        """Hashes of weights, template and examples, and which role each file of examples has."""
        files = {"query": self.query, "contrast": self.contrast, "labelled": self.labelled}
        return [
            *super().inputs(),
            *(f"{role} {content_hash(path)}" for role, path in files.items() if path),
        ]

    def prepare(self, folder: Path, device: str) -> None:
        """The unit direction that rows are compared with (or, for `dot`, the plain mean gradient).

        Raises:
            DataError: a row of the examples cannot be used; query and contrast have the same mean gradient.
        """
        from safetensors.torch import save_file

        worker = InfluenceScorer(self, None, device)
        examples = self._examples()
        direction = worker.mean_gradient([one for one in examples if one.shows])
        if others := [one for one in examples if not one.shows]:
            direction = direction - worker.mean_gradient(others)
        length = direction.norm()
        if length == 0:
            raise DataError(f"influence: the gradients of {self.query} and {self.contrast} have the same mean")
        if self.similarity == "cosine":
            direction = direction / length
        save_file({"direction": direction.cpu()}, str(folder / _DIRECTION))

    def load(self, folder: Path, device: str) -> InfluenceScorer:
        """The scorer, on the worker."""
        from safetensors.torch import load_file

        return InfluenceScorer(self, load_file(str(folder / _DIRECTION))["direction"].to(device), device)

    def _examples(self) -> list[TraitAnswer]:
        if self.labelled:
            return read_labelled(self.labelled)
        return [
            TraitAnswer(row.messages, row.completion or "", path == self.query, f"{path}, row {row.number}")
            for path in (self.query, self.contrast)
            if path
            for row in read_answers(path)
        ]


class InfluenceScorer:
    """A model whose gradients are compared with a direction [size] (None while that is being made)."""

    def __init__(self, settings: Influence, direction: torch.Tensor | None, device: str) -> None:
        from sftfilter.arithmetic import fast_dtype
        from sftfilter.scorers.gradients import ProjectedGradients

        folder = resolve(settings.model)
        self.settings = settings
        self.direction = direction
        self.chat = chat_format(folder, settings.system_prompt)
        dtype = fast_dtype(device) if settings.dtype == "auto" else settings.dtype
        model = load_model(folder, dtype, device).eval()
        context = int(model.config.max_position_embeddings)
        self.limit = min(settings.max_length or context, context)
        self.gradients = ProjectedGradients(model, settings.rank, settings.last_blocks, settings.seed, self.chat.pad_id)

    def score(self, batch: pa.Table) -> Scored:
        """Cosine in [-1, 1], or the product of the gradients (squared nats)."""
        return score_answers(batch, self.encode, self._scores)

    def encode(self, messages: Sequence[Message], completion: str) -> Answer:
        """A row as training sees it.

        Raises:
            DataError: it does not fit, or the template does not take it.
        """
        return encode_answer(self.chat, messages, completion, self.limit)

    def mean_gradient(self, examples: Sequence[TraitAnswer]) -> torch.Tensor:
        """Mean over examples [size]; for `cosine` each one's gradient has length 1 first, as in LESS."""
        import torch

        rows: list[Answer] = []
        for one in examples:
            try:
                rows.append(self.encode(one.messages, one.completion))
            except DataError as error:
                raise DataError(f"{one.where}: {error}") from error
        total = torch.zeros(self.gradients.size, device=self.gradients.model.device)
        for _, gradients in self._passes(rows):
            lengths = gradients.norm(dim=1, keepdim=True) if self.settings.similarity == "cosine" else 1.0
            total += torch.nan_to_num(gradients / lengths).sum(0)
        return total / len(rows)

    def _scores(self, rows: list[Answer]) -> list[float]:
        assert self.direction is not None
        scores = [0.0] * len(rows)
        for members, gradients in self._passes(rows):
            products = gradients @ self.direction
            if self.settings.similarity == "cosine":
                products = products / gradients.norm(dim=1)  # NaN, and so an error, for a gradient of zero
            for i, value in zip(members, products.tolist(), strict=True):
                scores[i] = value
        return scores

    def _passes(self, rows: Sequence[Answer]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Rows of about one length together, as many as `tokens_per_pass` holds: their places, and gradients."""
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i))
        while order:
            width = len(rows[order[-1]].ids)
            members = order[-max(1, self.settings.tokens_per_pass // width) :]
            order = order[: -len(members)]
            yield members, self.gradients.of([rows[i] for i in members])
