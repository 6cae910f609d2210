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

from pydantic import Field

from sftfilter.config import SpecPath, file_hash
from sftfilter.errors import DataError
from sftfilter.models import BUILTIN, load_model, load_tokenizer, resolve, weights_hash
from sftfilter.prompts import existing_file, read_answers
from sftfilter.scorers.contract import Scored, ScorerSettings

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from sftfilter.chat_format import ChatFormat
    from sftfilter.schema import Message
    from sftfilter.scorers.gradients import ProjectedGradients, TokenRow

_DIRECTION = "direction.safetensors"


class Influence(ScorerSettings):
    """Likeness of a row's loss gradient to the mean gradient of query rows that show the trait."""

    kind: Literal["influence"]
    query: Annotated[SpecPath, Field(description="JSONL with `prompt` and a `completion` that shows the trait")]
    contrast: Annotated[
        SpecPath | None, Field(description="the same without the trait; its mean gradient is taken off the query's")
    ] = None
    similarity: Annotated[
        Literal["cosine", "dot"], Field(description="cosine of gradients, or their product: long rows weigh more")
    ] = "cosine"
    model: Annotated[str, Field(description=f"'{BUILTIN}', a local folder, or a hub id")] = BUILTIN
    system_prompt: Annotated[str | None, Field(description="as in training")] = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_length: Annotated[int, Field(gt=0, description="tokens; longer rows get an error")] = 2048
    rank: Annotated[int | None, Field(gt=0, description="of the projection of each side; null: none")] = 16
    last_blocks: Annotated[int | None, Field(gt=0, description="only so many last decoder blocks: cheaper")] = None
    seed: Annotated[int, Field(description="of the projection")] = 0
    tokens_per_pass: Annotated[int, Field(gt=0)] = 4096

    needs: ClassVar[tuple[str, ...]] = ("messages", "completion")
    heavy: ClassVar[bool] = True
    batch: ClassVar[int] = 256
    aside: ClassVar[frozenset[str]] = frozenset({"query", "contrast", "model", "tokens_per_pass"})

    def inputs(self) -> Sequence[str]:
        """Hashes of the weights, the template and the query files."""
        folder = resolve(self.model)
        files = [file_hash(existing_file(path)) for path in (self.query, self.contrast) if path]
        return [weights_hash(folder), self._chat(folder).hash, *files]

    def prepare(self, folder: Path, device: str) -> None:
        """The unit direction that rows are compared with (or, for `dot`, the plain mean gradient).

        Raises:
            DataError: a row of the query cannot be used; query and contrast have the same mean gradient.
        """
        from safetensors.torch import save_file

        worker = InfluenceScorer(self, None, device)
        direction = worker.mean_gradient(self._rows(worker.chat, self.query))
        if self.contrast:
            direction = direction - worker.mean_gradient(self._rows(worker.chat, self.contrast))
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

    def _chat(self, folder: str) -> ChatFormat:
        from sftfilter.chat_format import ChatFormat

        return ChatFormat(load_tokenizer(folder), self.system_prompt)

    def _rows(self, chat: ChatFormat, path: str) -> list[TokenRow]:
        rows, _ = read_answers(path, 0.0)
        tokens = [token_row(chat, r["messages"], r["completion"]) for r in rows]
        for row, made in zip(rows, tokens, strict=True):
            if made.length > self.max_length:
                raise DataError(f"{path}, row {row['row']}: {made.length} tokens, max_length is {self.max_length}")
        return tokens


class InfluenceScorer:
    """A model whose gradients are compared with a direction [size] (None while that is being made)."""

    def __init__(self, settings: Influence, direction: torch.Tensor | None, device: str) -> None:
        from sftfilter.chat_format import ChatFormat
        from sftfilter.scorers.gradients import ProjectedGradients

        folder = resolve(settings.model)
        self.settings = settings
        self.direction = direction
        self.chat = ChatFormat(load_tokenizer(folder), settings.system_prompt)
        model = load_model(folder, settings.dtype, device).eval()
        self.gradients: ProjectedGradients = ProjectedGradients(
            model, settings.rank, settings.last_blocks, settings.seed, self.chat.pad_id
        )

    def score(self, batch: pa.Table) -> Scored:
        """Cosine in [-1, 1], or the product of the gradients (squared nats)."""
        import pyarrow as pa

        assert self.direction is not None
        rows: dict[int, TokenRow] = {}
        errors: list[str | None] = [None] * batch.num_rows
        scores: list[float | None] = [None] * batch.num_rows
        for i, row in enumerate(batch.select(["messages", "completion"]).to_pylist()):
            if row["completion"] is None:
                continue
            made = token_row(self.chat, row["messages"], row["completion"])
            if made.length > self.settings.max_length:
                errors[i] = f"{made.length} tokens, max_length is {self.settings.max_length}"
            else:
                rows[i] = made
        for members, gradients in self._passes(rows):
            found = (gradients @ self.direction).tolist()
            lengths = gradients.norm(dim=1).tolist()
            for i, value, length in zip(members, found, lengths, strict=True):
                if self.settings.similarity == "dot":
                    scores[i] = value
                elif length > 0:
                    scores[i] = value / length
                else:
                    errors[i] = "the gradient is zero, so it has no direction"
        return Scored(pa.array(scores, pa.float64()), pa.array(errors, pa.string()))

    def mean_gradient(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        """Mean over rows [size]; for `cosine` each row's gradient has length 1 first, as in LESS."""
        import torch

        total = torch.zeros(self.gradients.size, device=self.gradients.model.device)
        for _, gradients in self._passes(dict(enumerate(rows))):
            lengths = gradients.norm(dim=1, keepdim=True) if self.settings.similarity == "cosine" else 1.0
            total += torch.nan_to_num(gradients / lengths).sum(0)
        return total / len(rows)

    def _passes(self, rows: dict[int, TokenRow]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Rows of about one length together, as many as `tokens_per_pass` holds."""
        order = sorted(rows, key=lambda i: (rows[i].length, i))
        while order:
            width = rows[order[-1]].length
            members = order[-max(1, self.settings.tokens_per_pass // width) :]
            order = order[: -len(members)]
            yield members, self.gradients.of([rows[i] for i in members])


def token_row(chat: ChatFormat, messages: Sequence[Message], completion: str) -> TokenRow:
    """A rollout as training sees it."""
    from sftfilter.scorers.gradients import TokenRow

    return TokenRow(chat.prompt_ids(messages), chat.answer_ids(messages, completion))
