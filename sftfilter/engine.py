"""Batched generation and scoring of token sequences with transformers, on CPU or GPU.

Requests of one batch may differ in temperature, seed and length. Sampling is Gumbel-max with noise drawn from a
generator per request, so what a request answers does not depend on its neighbours' seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from sftfilter.models import load_model
from sftfilter.shared_prefix import PackedRow, pack, tensors


@dataclass(frozen=True)
class GenerateRequest:
    """One continuation to write. `temperature` 0 is greedy."""

    prompt_ids: list[int]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Continuation:
    """New token ids without the stop token; `length` means that max_tokens ended it."""

    ids: list[int]
    finish_reason: Literal["stop", "length"]


@dataclass
class Engine:
    """A causal LM ready to answer.

    Attributes:
        max_batch: sequences a forward pass holds at most; larger calls are split.
    """

    folder: str
    stop_id: int
    pad_id: int
    dtype: str = "bfloat16"
    device: str = "cpu"
    max_batch: int = 64
    _model: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._model = load_model(self.folder, self.dtype, self.device).eval()
        self._model.generation_config.eos_token_id = self.stop_id
        self._model.generation_config.pad_token_id = self.pad_id

    @property
    def context_length(self) -> int:
        """Positions the model was made for."""
        return int(self._model.config.max_position_embeddings)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Continuation]:
        """Continuations in the order of the requests; neighbours in length share a batch."""
        order = sorted(range(len(requests)), key=lambda i: (requests[i].max_tokens, len(requests[i].prompt_ids)))
        answers: dict[int, Continuation] = {}
        for start in range(0, len(order), self.max_batch):
            part = order[start : start + self.max_batch]
            answers.update(zip(part, self._generate_batch([requests[i] for i in part]), strict=True))
        return [answers[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _generate_batch(self, batch: list[GenerateRequest]) -> list[Continuation]:
        ids, mask = self._pad([r.prompt_ids for r in batch], left=True)
        limits = torch.tensor([r.max_tokens for r in batch], device=self.device)
        out = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=int(limits.max()),
            logits_processor=LogitsProcessorList([_GumbelNoise(batch)]),
            stopping_criteria=StoppingCriteriaList([_OwnLimit(ids.shape[1], limits)]),
        )
        return [self._cut(row, r.max_tokens) for row, r in zip(out[:, ids.shape[1] :].tolist(), batch, strict=True)]

    def _cut(self, row: list[int], limit: int) -> Continuation:
        if self.stop_id in row[:limit]:
            return Continuation(row[: row.index(self.stop_id)], "stop")
        return Continuation(row[:limit], "length")

    @torch.inference_mode()
    def token_logprobs(self, sequences: Sequence[list[int]], start: Sequence[int]) -> list[list[float]]:
        """Log-probability (nats) of each token of a sequence from position `start` on, given those before it.

        Args:
            sequences: token ids.
            start: per sequence, the first position that is scored (at least 1).
        """
        scored: dict[int, list[float]] = {}
        rows = sorted(pack(sequences), key=lambda row: len(row.ids))
        while rows:
            # Rows of one pass are about equally long, and hold no more tokens than a batch of short prompts.
            count = max(1, min(len(rows), self.max_batch * 64 // len(rows[-1].ids)))
            part, rows = rows[-count:], rows[:-count]
            ids, positions, mask = (t.to(self.device) for t in tensors(part, self.pad_id, self._model.dtype))
            decoder = self._model.get_decoder()
            hidden = decoder(
                input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
            ).last_hidden_state
            for k, row in enumerate(part):
                self._score_row(row, hidden[k], sequences, start, scored)
        return [scored[i] for i in range(len(sequences))]

    def _score_row(
        self,
        row: PackedRow,
        hidden: torch.Tensor,
        sequences: Sequence[list[int]],
        start: Sequence[int],
        scored: dict[int, list[float]],
    ) -> None:
        """Log-probabilities of a packed row's sequences; the common beginning meets the vocabulary once."""
        first = min(row.shared, *(start[i] for i, _ in row.members))
        shared = self._logprobs(hidden[first - 1 : row.shared - 1], row.ids[first : row.shared])
        for i, offset in row.members:
            rest = sequences[i][row.shared :]
            before = torch.cat([hidden[row.shared - 1 : row.shared], hidden[offset : offset + len(rest)]])
            scored[i] = (shared + self._logprobs(before[: len(rest)], rest))[start[i] - first :]

    def _logprobs(self, hidden: torch.Tensor, targets: list[int]) -> list[float]:
        if not targets:
            return []
        logits = self._model.get_output_embeddings()(hidden).float()
        chosen = logits.gather(1, torch.tensor(targets, device=logits.device)[:, None])[:, 0]
        return (chosen - logits.logsumexp(-1)).tolist()

    def _pad(self, rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(r) for r in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            at = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, at] = torch.tensor(row)
            mask[i, at] = 1
        return ids.to(self.device), mask.to(self.device)


class _GumbelNoise(LogitsProcessor):
    """argmax(logits / T + Gumbel noise) is a sample from softmax(logits / T); T = 0 adds no noise."""

    def __init__(self, batch: list[GenerateRequest]) -> None:
        self.temperatures = [r.temperature for r in batch]
        self.generators = [np.random.default_rng(r.seed) for r in batch]  # its ziggurat is 4 x torch's on CPU

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        for row, (temperature, generator) in enumerate(zip(self.temperatures, self.generators, strict=True)):
            if temperature > 0:
                waits = torch.from_numpy(generator.standard_exponential(scores.shape[1], dtype=np.float32))
                scores[row] = scores[row] / temperature - waits.log_().to(scores.device)
        return scores


class _OwnLimit(StoppingCriteria):
    """Ends each row at its own max_tokens, not at the longest one's."""

    def __init__(self, prompt_width: int, limits: torch.Tensor) -> None:
        self.prompt_width = prompt_width
        self.limits = limits

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        return (input_ids.shape[1] - self.prompt_width) >= self.limits
