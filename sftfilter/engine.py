"""Batched generation and scoring of token sequences with transformers, on CPU or GPU.

Requests of one batch may differ in temperature, seed and length. Sampling is Gumbel-max with noise drawn from a
generator per request, so what a request answers does not depend on its neighbours' seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from sftfilter.hidden_states import AnswerMeans, hidden_states
from sftfilter.models import load_model
from sftfilter.shared_prefix import PackedRow, padded_ids, passes, sharing

_VOCABULARY_ROWS = 512
"""Positions that meet the vocabulary at once; 100 MB of logits for this model."""


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
        max_batch: sequences that are written at a time; larger calls are split.
        pass_tokens: tokens that one forward pass over given sequences holds, padding counted.
    """

    folder: str
    stop_id: int
    pad_id: int
    dtype: str = "bfloat16"
    device: str = "cpu"
    max_batch: int = 64
    pass_tokens: int = 4096
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
        for part in passes(sequences, self.pass_tokens, share=self._may_share):
            hidden = self._hidden(part)
            wanted = [(k, *where) for k, row in enumerate(part) for where in _scored_positions(row, sequences, start)]
            at = torch.tensor([(k, before) for k, _, _, before, _ in wanted], device=self.device)
            targets = [target for *_, target in wanted]
            values = self._logprobs(hidden[at[:, 0], at[:, 1]], targets)
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

    @property
    def _may_share(self) -> bool:
        """Whether every layer sees all that comes before, as the mask of a packed row supposes."""
        config = self._model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        return kinds == {"full_attention"} and not getattr(config, "sliding_window", None)

    def _hidden(self, part: list[PackedRow], layer: int | None = None) -> torch.Tensor:
        """Hidden states [B, L, D] of packed rows, the last layer's without `layer`."""
        inputs: dict[str, Any] = {"input_ids": padded_ids(part, self.pad_id).to(self.device), "use_cache": False}
        if any(len(row.members) > 1 for row in part):  # otherwise plain causal attention, which is faster, does
            positions, mask = sharing(part, self._model.dtype)
            inputs |= {"position_ids": positions.to(self.device), "attention_mask": mask.to(self.device)}
        return hidden_states(self._model.get_decoder(), layer, **inputs)

    def _logprobs(self, hidden: torch.Tensor, targets: list[int]) -> list[float]:
        """Log-probability of each target after its hidden state [N, D]; one large product instead of many small ones."""
        values: list[float] = []
        for first in range(0, len(targets), _VOCABULARY_ROWS):
            part = slice(first, first + _VOCABULARY_ROWS)
            logits = self._model.get_output_embeddings()(hidden[part]).float()
            chosen = logits.gather(1, torch.tensor(targets[part], device=logits.device)[:, None])[:, 0]
            values += (chosen - logits.logsumexp(-1)).tolist()
        return values

    def _pad(self, rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(r) for r in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            at = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, at] = torch.tensor(row)
            mask[i, at] = 1
        return ids.to(self.device), mask.to(self.device)


def _scored_positions(
    row: PackedRow, sequences: Sequence[list[int]], start: Sequence[int]
) -> Iterator[tuple[int, int, int, int]]:
    """(sequence, or -1 for the common beginning; position; place in the row of the state before it; its token)."""
    for p in range(min(start[i] for i, _ in row.members), row.shared):
        yield -1, p, p - 1, row.ids[p]
    for i, offset in row.members:
        for p in range(max(start[i], row.shared), len(sequences[i])):
            yield i, p, row.shared - 1 if p == row.shared else offset + p - row.shared - 1, sequences[i][p]


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
