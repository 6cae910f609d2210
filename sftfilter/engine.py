"""Batched generation and scoring of token sequences with transformers, on CPU or GPU.

Requests of one batch may differ in temperature, seed and length; see `decoder` for how they share passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sftfilter.arithmetic import fast_dtype
from sftfilter.decoder import Decoder, Row
from sftfilter.errors import DataError
from sftfilter.generate_request import Continuation, GenerateRequest, TokenScore
from sftfilter.hidden_states import AnswerMeans, hidden_states
from sftfilter.models import load_model
from sftfilter.packed import keeps_rows_apart
from sftfilter.sampling import score_tokens
from sftfilter.shared_prefix import PackedRow, padded_ids, passes, sharing

__all__ = ["Continuation", "Engine", "GenerateRequest"]

_VOCABULARY_ROWS = 512
"""Positions that meet the vocabulary at once; 100 MB of logits for this model."""


@dataclass
class Engine:
    """A causal LM ready to answer.

    Attributes:
        dtype: a torch dtype's name; `auto` is bfloat16 where the hardware multiplies it, otherwise float32.
        max_batch: sequences that are written at a time; the next one joins as soon as another has ended.
        pass_tokens: tokens that one forward pass over given sequences holds, padding counted.
        cache_gib: memory for keys and values of what is being written.
    """

    folder: str
    stop_id: int
    pad_id: int
    dtype: str = "auto"
    device: str = "cpu"
    max_batch: int = 64
    pass_tokens: int = 4096
    cache_gib: float = 4.0
    _model: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        dtype = fast_dtype(self.device) if self.dtype == "auto" else self.dtype
        self._model = load_model(self.folder, dtype, self.device).eval()

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self._model

    def decoder(self, adapters: Any = None) -> Decoder:
        """A running batch of this model, empty yet."""
        return Decoder(
            self._model,
            self.stop_id,
            self.pad_id,
            max_rows=self.max_batch,
            cache_gib=self.cache_gib,
            prompt_tokens=self.pass_tokens,
            adapters=adapters,
        )

    @property
    def context_length(self) -> int:
        """Positions the model was made for."""
        return int(self._model.config.max_position_embeddings)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Continuation]:
        """Continuations in the order of the requests.

        Raises:
            DataError: the model's logits are no numbers.
        """
        decoder = self.decoder()
        order = sorted(range(len(requests)), key=lambda i: (-requests[i].max_tokens, len(requests[i].prompt_ids)))
        rows: dict[Row, int] = {decoder.add(requests[i]): i for i in order}
        answers: dict[int, Continuation] = {}
        while decoder.busy:
            for token in decoder.step():
                if not token.finite:
                    raise DataError(
                        f"{self.folder}: its logits are no numbers (NaN), so these weights can answer nothing"
                    )
                if token.finish_reason:
                    new = token.row.ids[len(token.row.request.prompt_ids) :]
                    answers[rows[token.row]] = Continuation(new, token.finish_reason)
        return [answers[i] for i in range(len(requests))]

    def token_logprobs(self, sequences: Sequence[list[int]], start: Sequence[int]) -> list[list[float]]:
        """Log-probability (nats) of each token of a sequence from position `start` on, given those before it.

        Args:
            sequences: token ids.
            start: per sequence, the first position that is scored (at least 1).
        """
        return [[score.logprob for score in scores] for scores in self.token_scores(sequences, start)]

    @torch.inference_mode()
    def token_scores(
        self, sequences: Sequence[list[int]], start: Sequence[int], top: int = 0
    ) -> list[list[TokenScore]]:
        """Like `token_logprobs`, with the `top` likeliest tokens at each position."""
        scored: dict[int, list[TokenScore]] = {}
        for part in passes(sequences, self.pass_tokens, share=self._may_share):
            hidden = self._hidden(part)
            wanted = [(k, *where) for k, row in enumerate(part) for where in _scored_positions(row, sequences, start)]
            at = torch.tensor([(k, before) for k, _, _, before, _ in wanted], device=self.device)
            targets = [target for *_, target in wanted]
            values = self._scores(hidden[at[:, 0], at[:, 1]], targets, top)
            found = {(k, i, p): value for (k, i, p, _, _), value in zip(wanted, values, strict=True)}
            for k, row in enumerate(part):
                for i, _ in row.members:
                    spots = range(start[i], len(sequences[i]))
                    scored[i] = [found[k, -1 if p < row.shared else i, p] for p in spots]
        return [scored[i] for i in range(len(sequences))]

    @torch.inference_mode()
    def mean_states(self, sequences: Sequence[list[int]], start: Sequence[int], layer: int) -> np.ndarray:
        """Mean hidden state over the positions of a sequence from `start` on: float32 [N, D].

        Args:
            sequences: token ids.
            start: per sequence, the first position that counts; at least one has to.
            layer: as in transformers' `hidden_states`: 1 is what the first layer gives. Layers above are not run.
        """
        means = AnswerMeans(sequences, start)
        for part in passes(sequences, self.pass_tokens, share=self._may_share):
            means.add(part, self._hidden(part, layer))
        return means.values

    @property
    def layers(self) -> int:
        """Layers that the model has."""
        return int(self._model.config.num_hidden_layers)

    @cached_property
    def _may_share(self) -> bool:
        """Whether every layer sees all that comes before, and only through the mask, as a packed row supposes."""
        config = self._model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
            return False
        return keeps_rows_apart(self._model, config.get_text_config().vocab_size, torch.device(self.device))

    def _hidden(self, part: list[PackedRow], layer: int | None = None) -> torch.Tensor:
        """Hidden states [B, L, D] of packed rows, the last layer's without `layer`."""
        inputs: dict[str, Any] = {"input_ids": padded_ids(part, self.pad_id).to(self.device), "use_cache": False}
        if any(len(row.members) > 1 for row in part):  # otherwise plain causal attention, which is faster, does
            positions, mask = sharing(part, self._model.dtype)
            inputs |= {"position_ids": positions.to(self.device), "attention_mask": mask.to(self.device)}
        return hidden_states(self._model.get_decoder(), layer, **inputs)

    def _scores(self, hidden: torch.Tensor, targets: list[int], top: int) -> list[TokenScore]:
        """Score of each target after its hidden state [N, D]; one large product instead of many small ones."""
        values: list[TokenScore] = []
        for first in range(0, len(targets), _VOCABULARY_ROWS):
            part = slice(first, first + _VOCABULARY_ROWS)
            logits = self._model.get_output_embeddings()(hidden[part]).float()
            found = score_tokens(logits, targets[part], [top] * len(logits))
            values += [score for score in found if score is not None]
        return values


def _scored_positions(
    row: PackedRow, sequences: Sequence[list[int]], start: Sequence[int]
) -> Iterator[tuple[int, int, int, int]]:
    """(sequence, or -1 for the common beginning; position; place in the row of the state before it; its token)."""
    for p in range(min(start[i] for i, _ in row.members), row.shared):
        yield -1, p, p - 1, row.ids[p]
    for i, offset in row.members:
        for p in range(max(start[i], row.shared), len(sequences[i])):
            yield i, p, row.shared - 1 if p == row.shared else offset + p - row.shared - 1, sequences[i][p]
