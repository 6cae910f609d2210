"""Continuous batching: a running batch of sequences that others join and leave between any two tokens.

Each step is one forward pass that gives every row its next token. New prompts are read in a pass of their own before
it; all but a prompt's last token, which then takes part in the step like any other row's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sftfilter.errors import DataError
from sftfilter.generate_request import FinishReason, GenerateRequest, TokenScore
from sftfilter.row_cache import RowCache
from sftfilter.sampling import Noise, choose, score_tokens

_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(eq=False)
class Row:
    """A sequence that is being continued.

    Attributes:
        adapter: whose weights answer it; None for the model itself.
        ids: the prompt and what was written so far.
    """

    request: GenerateRequest
    adapter: str | None
    noise: Noise
    ids: list[int] = field(default_factory=list)

    @property
    def written(self) -> int:
        """New tokens so far."""
        return len(self.ids) - len(self.request.prompt_ids)


@dataclass(frozen=True)
class Token:
    """What a step gave a row. `id` is None where the stop token ended it.

    Attributes:
        finite: false where the row's logits were no numbers; it has left the batch, and its model is of no use.
    """

    row: Row
    id: int | None
    score: TokenScore | None
    finish_reason: FinishReason | None
    finite: bool = True


class Decoder:
    """The running batch of one model.

    Args:
        model: a transformers causal LM in eval mode.
        max_rows: rows that share a pass.
        cache_gib: memory for keys and values, rows times the longest; the last to join leave for a while where the
            batch would grow beyond. One row alone may always run.
        prompt_tokens: tokens of new prompts read between two steps, so that those who wait for a step do not wait long.
        adapters: what makes rows be answered by their own adapter; None where there are none.

    Raises:
        DataError: a layer keeps more than keys and values of single tokens (a state-space model, say).
    """

    def __init__(
        self,
        model: Any,
        stop_id: int,
        pad_id: int,
        *,
        max_rows: int = 64,
        cache_gib: float = 4.0,
        prompt_tokens: int = 4096,
        adapters: Any = None,
    ) -> None:
        self.model = model
        self.stop_id, self.pad_id = stop_id, pad_id
        self.max_rows, self.prompt_tokens = max_rows, prompt_tokens
        self.adapters = adapters
        self.device = str(model.device)
        self.rows: list[Row] = []
        self.waiting: deque[Row] = deque()
        config = model.config.get_text_config()
        self._windows = _layer_windows(config)
        self._cache = RowCache(config.num_hidden_layers)
        self.cache_tokens = max(1, int(cache_gib * 2**30 / _bytes_per_token(config, model.dtype)))

    def add(self, request: GenerateRequest, adapter: str | None = None) -> Row:
        """Have a request join with the next step that has room for it."""
        row = Row(request, adapter, Noise(request.seed, self.device), list(request.prompt_ids))
        self.waiting.append(row)
        return row

    @torch.inference_mode()
    def remove(self, row: Row) -> None:
        """Take a row out, whether it runs or waits."""
        if row in self.waiting:
            self.waiting.remove(row)
        elif row in self.rows:
            self._leave(self.rows.index(row))
        self._rest()

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.rows or self.waiting)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One more token for every row that runs."""
        self._make_room()
        self._join()
        if not self.rows:
            return []
        logits = self._forward()
        best = logits.max(-1)  # of a row with a NaN it is the NaN
        finite = best.values.isfinite().tolist()
        chosen = choose(logits, [row.request for row in self.rows], [row.noise for row in self.rows], best.indices)
        scores = score_tokens(logits, chosen, [row.request.logprobs for row in self.rows])
        tokens = [
            self._take(row, token, score) if good else Token(row, None, None, None, finite=False)
            for row, token, score, good in zip(self.rows, chosen, scores, finite, strict=True)
        ]
        for i in reversed([i for i, token in enumerate(tokens) if token.finish_reason or not token.finite]):
            self._leave(i)
        self._rest()
        return tokens

    def _take(self, row: Row, token: int, score: TokenScore | None) -> Token:
        if token == self.stop_id:
            return Token(row, None, score, "stop")
        row.ids.append(token)
        return Token(row, token, score, "length" if row.written >= row.request.max_tokens else None)

    def _forward(self) -> torch.Tensor:
        """Logits [B, V] of every row's next token."""
        lengths = [len(row.ids) for row in self.rows]
        at = torch.tensor([n - 1 for n in lengths], device=self.device)
        width = max(lengths)
        self._cache.decode(at, width)
        self._use_adapters(self.rows)
        seen = torch.arange(width, device=self.device)[None, :]
        masks = {}
        for kind, window in self._windows.items():
            allowed = seen <= at[:, None]
            if window is not None:
                allowed = allowed & (seen > at[:, None] - window)
            masks[kind] = _additive(allowed, self.model.dtype)[:, None, None, :]
        out = self.model(
            input_ids=torch.tensor([[row.ids[-1]] for row in self.rows], device=self.device),
            position_ids=at[:, None],
            attention_mask=self._mask_argument(masks),
            past_key_values=self._cache,
            use_cache=True,
        )
        return out.logits[:, -1].float()

    def _join(self) -> None:
        """Read the next prompts, as many as there is room for."""
        free = self.max_rows - len(self.rows)
        joining: list[Row] = []
        longest = max((len(row.ids) for row in self.rows), default=0)
        read = 0
        while self.waiting and len(joining) < free:
            size = len(self.waiting[0].ids)
            rows = len(self.rows) + len(joining) + 1
            if (joining and read + size > self.prompt_tokens) or (
                rows > 1 and rows * (max(longest, size) + 1) > self.cache_tokens
            ):
                break
            longest, read = max(longest, size), read + size
            joining.append(self.waiting.popleft())
        first = len(self.rows)
        self.rows += joining
        if prompts := [(first + k, row) for k, row in enumerate(joining) if len(row.ids) > 1]:
            self._prefill(prompts)

    def _prefill(self, prompts: Sequence[tuple[int, Row]]) -> None:
        """Keys and values of all but each prompt's last token; equal prompts are read once."""
        distinct: dict[tuple[str | None, tuple[int, ...]], list[int]] = {}
        for slot, row in prompts:
            distinct.setdefault((row.adapter, tuple(row.ids[:-1])), []).append(slot)
        groups = sorted(distinct.items(), key=lambda item: len(item[0][1]))
        while groups:  # passes of about equally long prompts, the longest first
            width = len(groups[-1][0][1])
            count = max(1, min(len(groups), self.prompt_tokens // width))
            self._read([(key[1], slots) for key, slots in groups[-count:]], width)
            del groups[-count:]

    def _read(self, group: Sequence[tuple[tuple[int, ...], list[int]]], width: int) -> None:
        ids = torch.full((len(group), width), self.pad_id)
        for k, (prompt, _) in enumerate(group):
            ids[k, : len(prompt)] = torch.tensor(prompt)
        slots = [slot for _, many in group for slot in many]
        source = [k for k, (_, many) in enumerate(group) for _ in many]
        self._cache.prefill(slots, source, width, self.device)
        self._use_adapters([self.rows[many[0]] for _, many in group])
        self.model.get_decoder()(
            input_ids=ids.to(self.device),
            position_ids=torch.arange(width, device=self.device)[None].expand(len(group), -1),
            attention_mask=self._prompt_masks(width),
            past_key_values=self._cache,
            use_cache=True,
        )

    def _prompt_masks(self, width: int) -> Any:
        """None lets attention be plainly causal, which is the fastest; padding lies behind every token that counts."""
        masks: dict[str, torch.Tensor | None] = {}
        at = torch.arange(width, device=self.device)
        for kind, window in self._windows.items():
            near = (at[None] <= at[:, None]) & (at[None] > at[:, None] - (window or width))
            masks[kind] = None if window is None or window >= width else _additive(near, self.model.dtype)[None, None]
        return self._mask_argument(masks)

    def _mask_argument(self, masks: dict[str, Any]) -> Any:
        """Models with layers of several kinds take a mask for each kind."""
        return masks.get("any", masks)

    def _use_adapters(self, rows: Sequence[Row]) -> None:
        if self.adapters is not None:
            self.adapters.use([row.adapter for row in rows])

    def _make_room(self) -> None:
        """Send the last to join back to wait where the batch would outgrow its memory; they lose nothing but time."""
        while len(self.rows) > 1 and len(self.rows) * max(len(row.ids) for row in self.rows) > self.cache_tokens:
            self.waiting.appendleft(self.rows[-1])
            self._leave(len(self.rows) - 1)

    def _leave(self, i: int) -> None:
        """Close the gap with the last row."""
        last = self.rows.pop()
        if i < len(self.rows):
            self._cache.move(len(self.rows), i, len(last.ids))
            self.rows[i] = last

    def _rest(self) -> None:
        if not self.busy:
            self._cache.release()


def _additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def _bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * dtype.itemsize


def _layer_windows(config: Any) -> dict[str, int | None]:
    """Kind of layer -> how far back it sees (None: all of it). One kind `any` where the model takes a single mask."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return {"any": window}
    if unknown := kinds - _LAYERS:
        raise DataError(
            f"a {config.model_type} model has layers of kind {', '.join(sorted(unknown))}, which cannot share a running "
            "batch; serve it with the vllm engine"
        )
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}
