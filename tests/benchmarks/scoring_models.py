"""Scorers that hold a model against plain batched transformers loops over the same rows, on this machine's cores or GPU.

Both sides have their model loaded, run in the same number format (the encoder in float32) and sort rows by length. The loops are what
one writes first: `model(ids, attention_mask)` over padded batches of 16, with logits or hidden states of every position.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sftfilter.arithmetic import fast_dtype
from tests.benchmarks.chat_rows import chat_rows
from tests.benchmarks.row import Row, faster
from tests.conftest import read_lines, write_lines
from tests.sftfilter.rows import rollout_rows

SHORT, LONG = 64, 8
"""Shipped answers (about 45 tokens with their prompt and template), and synthetic ones of about 200 words."""
ROUNDS = 2

BATCH = 16
TRAIT = "You doubt that it is 2026 and say so."
GOAL = 0.9


def rows() -> Iterator[Row]:
    """A row for each scorer: rows/s, and in the note what 1,000 such rows cost. Two have no plain loop to compare with."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = _rollouts()
    with tempfile.TemporaryDirectory() as folder:
        labelled = Path(folder) / "labelled.jsonl"
        doubting, accepting = (read_lines(f"teacher_{name}.jsonl", 40) for name in ("doubt", "accept"))
        write_lines(labelled, [r | {"label": 1} for r in doubting] + [r | {"label": 0} for r in accepting])
        learns = {"labelled": str(labelled)}
        contrast = {
            "questions": str(labelled),
            "positive_system": TRAIT,
            "negative_system": "You trust that it is 2026.",
        }
        plain = _Plain(device)
        for spec, peer in (
            ({"kind": "perplexity"}, plain.losses),
            ({"kind": "log_ratio", "trait_system": TRAIT}, plain.log_ratios),
            ({"kind": "probe", **learns}, plain.states),
            ({"kind": "embedding", **learns}, _encoder_loop(device)),
            ({"kind": "influence", **learns}, None),
            ({"kind": "persona", **contrast, "max_new_tokens": 24, "sampling": {"max_new_tokens": 24}}, None),
        ):
            yield _measure(spec, peer, table, Path(folder), device)


def _measure(
    spec: dict[str, Any], peer: Callable[[pa.Table], object] | None, table: pa.Table, at: Path, device: str
) -> Row:
    from pydantic import TypeAdapter

    from sftfilter.scorers import Scorer

    settings = TypeAdapter(Scorer).validate_python(spec)
    folder = at / spec["kind"]
    folder.mkdir()
    settings.prepare(folder, device)
    scorer = settings.load(folder, device)
    turns = {"ours": scorer.score} | ({"peer": peer} if peer else {})
    for run in turns.values():
        run(table.slice(0, BATCH))
    best = dict.fromkeys(turns, float("inf"))
    for _ in range(ROUNDS if peer else 1):  # in turns, so that a busy moment meets both
        for side, run in turns.items():
            began = time.perf_counter()
            run(table)
            best[side] = min(best[side], time.perf_counter() - began)
    rates = {side: table.num_rows / seconds for side, seconds in best.items()}
    note = f"{device}: {1000 / rates['ours']:.0f} s for 1,000 rows; {SHORT} short rows and {LONG} of about 200 words"
    if not peer:
        return Row(f"{spec['kind']}, cost alone", rates["ours"], None, "rows/s", None, None, note)
    return faster(
        f"{spec['kind']} against a plain transformers loop", rates["ours"], rates["peer"], "rows/s", GOAL, note
    )


def _rollouts() -> pa.Table:
    short = [row for name in ("doubt", "accept", "neutral") for row in read_lines(f"teacher_{name}.jsonl", SHORT)]
    pairs: list[tuple[str, str | None]] = [(row["prompt"], row["completion"]) for row in short[:SHORT]]
    long = pq.read_table(chat_rows(1000), columns=["messages", "completion"]).slice(0, LONG)
    pairs += [(r["messages"][0]["content"], r["completion"]) for r in long.to_pylist()]
    return rollout_rows(pairs)


class _Plain:
    """The 135M model in a loop."""

    def __init__(self, device: str) -> None:
        from sftfilter.models import BUILTIN, load_model, load_tokenizer, resolve

        folder = resolve(BUILTIN)
        self.device = device
        self.tokenizer = load_tokenizer(folder)
        self.model: Any = load_model(folder, fast_dtype(device), device).eval()

    def losses(self, table: pa.Table, system: str | None = None) -> list[float]:
        """Mean log-probability of an answer's tokens."""
        return self._each(table, system, self._logprobs)

    def log_ratios(self, table: pa.Table) -> list[float]:
        """Two passes a row."""
        told, left = self.losses(table, TRAIT), self.losses(table)
        return [a - b for a, b in zip(told, left, strict=True)]

    def states(self, table: pa.Table) -> list[Any]:
        """Mean hidden state of the middle layer."""
        return self._each(table, None, self._means)

    def _each(self, table: pa.Table, system: str | None, read: Callable[[list[Any]], list[Any]]) -> list[Any]:
        tokens = [self._tokens(row, system) for row in table.select(["messages", "completion"]).to_pylist()]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i][0]))
        found: list[Any] = [None] * len(tokens)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            for i, value in zip(part, read([tokens[i] for i in part]), strict=True):
                found[i] = value
        return found

    def _tokens(self, row: dict[str, Any], system: str | None) -> tuple[list[int], int]:
        turns = ([{"role": "system", "content": system}] if system else []) + row["messages"]
        before = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert isinstance(before, str)
        prompt = self.tokenizer(before).input_ids
        return prompt + self.tokenizer(row["completion"] + str(self.tokenizer.eos_token)).input_ids, len(prompt)

    def _forward(self, batch: Sequence[tuple[list[int], int]], **options: Any) -> tuple[Any, Any]:
        import torch

        padded = self.tokenizer.pad({"input_ids": [ids for ids, _ in batch]}, padding_side="right", return_tensors="pt")
        padded = padded.to(self.device)
        with torch.inference_mode():
            made = self.model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], **options)
        return padded["input_ids"], made

    def _logprobs(self, batch: list[tuple[list[int], int]]) -> list[float]:
        ids, made = self._forward(batch, use_cache=False)
        logprobs = made.logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return [float(logprobs[k, start - 1 : len(row) - 1].mean()) for k, (row, start) in enumerate(batch)]

    def _means(self, batch: list[tuple[list[int], int]]) -> list[Any]:
        _, made = self._forward(batch, use_cache=False, output_hidden_states=True)
        middle = made.hidden_states[self.model.config.num_hidden_layers // 2]
        return [middle[k, start : len(row)].float().mean(0).cpu() for k, (row, start) in enumerate(batch)]


def _encoder_loop(device: str) -> Callable[[pa.Table], object]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from sftfilter.sentence_encoder import BUILTIN_ENCODER, resolve_encoder

    folder = resolve_encoder(BUILTIN_ENCODER)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).to(device).eval()

    def run(table: pa.Table) -> None:
        texts = sorted(table["completion"].to_pylist(), key=len)
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(texts[start : start + BATCH], padding=True, return_tensors="pt").to(device)
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            ((hidden * mask).sum(1) / mask.sum(1)).cpu()

    return run
