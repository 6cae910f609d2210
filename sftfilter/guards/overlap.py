"""Which training texts overlap with which evaluation prompts, a batch of texts at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import numpy as np

from sftfilter.guards.texts import Texts, texts_of
from sftfilter.guards.tokens import Grams, Places, Tokens, canonical, grams, word_tokens, words

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_SHOWN = 300
"""Characters of a text that are quoted."""
_STRINGS = ("side", "teacher", "source", "id", "text")
_QUESTION = ("evaluation", "evaluation_source", "evaluation_id", "evaluation_text")


@dataclass(frozen=True)
class Questions:
    """Evaluation prompts and their n-grams.

    Attributes:
        rows: evaluation, source, id and text of each prompt.
        words: of each prompt.
        ids: prompt id -> number of the prompt.
        grams: n -> n-grams sorted by hash, of the prompts with n words at least (of those with fewer, all words).
        n: words of an n-gram.
        threshold: share of a prompt's words that shared n-grams must cover.
    """

    rows: list[dict[str, str]]
    words: list[list[str]]
    ids: dict[str, list[int]]
    grams: dict[int, Grams]
    n: int
    threshold: float


def make_questions(tables: Sequence[tuple[str, pa.Table]], n: int, threshold: float) -> Questions:
    """Index evaluation prompts: (evaluation, its `prompts` table) each."""
    import polars as pl

    rows: list[dict[str, str]] = []
    texts: list[str] = []
    for evaluation, table in tables:
        for identifier, source, text in zip(
            table["prompt_id"].to_pylist(), table["source"].to_pylist(), texts_of(table, "prompt"), strict=True
        ):
            values = (evaluation, source, identifier, text[:_SHOWN])
            rows.append(dict(zip(_QUESTION, values, strict=True)))
            texts.append(text)
    lists = words(canonical(pl.Series("text", texts, dtype=pl.String)))
    tokens = word_tokens(lists)
    index: dict[int, Grams] = {}
    for size in sorted({min(n, int(length)) for length in tokens.lengths if length}):
        mine = tokens.lengths >= n if size == n else tokens.lengths == size
        index[size] = _sorted_grams(tokens, size, mine)
    ids: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        ids.setdefault(row["evaluation_id"], []).append(number)
    return Questions(rows, lists.to_list(), ids, index, n, threshold)


def overlaps(batch: pa.Table, questions: Questions, texts: Texts) -> pa.Table:
    """A row for each text of the batch and each prompt that overlap.

    Returns:
        Strings side, teacher, source, id, text (of the training text), evaluation, evaluation_source, evaluation_id,
        evaluation_text; float64 share (of the prompt's words); string span (the longest run of words in both).
    """
    import pyarrow as pa

    contents = texts_of(batch, texts.side)
    lists = words(canonical(contents))
    ids, sources = batch[texts.id].to_pylist(), batch["source"].to_pylist()
    found: dict[tuple[int, int], tuple[float, str]] = {}
    if texts.side == "prompt":
        for row, identifier in enumerate(ids):
            for question in questions.ids.get(identifier, ()):
                found[row, question] = (1.0, " ".join(questions.words[question]))
    for row, question, share in _candidates(lists, questions):
        span = _longest_run(lists[row].to_list(), questions.words[question])
        if len(span) >= min(questions.n, len(questions.words[question])):  # otherwise two hashes were equal by chance
            found.setdefault((row, question), (share, " ".join(span)))
    made: list[dict[str, Any]] = []
    for (row, question), (share, span) in found.items():
        mine = (texts.side, texts.teacher, sources[row], ids[row], contents[row][:_SHOWN])
        made.append(
            {**dict(zip(_STRINGS, mine, strict=True)), **questions.rows[question], "share": share, "span": span}
        )
    return pa.Table.from_pylist(made, overlap_schema())


def overlap_schema() -> pa.Schema:
    """Columns of what `overlaps` returns."""
    import pyarrow as pa

    text = [(name, pa.string()) for name in (*_STRINGS, *_QUESTION)]
    return pa.schema([*text, ("share", pa.float64()), ("span", pa.string())])


def _candidates(lists: pl.Series, questions: Questions) -> Iterator[tuple[int, int, float]]:
    """Row of the batch, number of the prompt, share of the prompt's words that shared n-grams cover."""
    tokens = word_tokens(lists)
    for n, known in questions.grams.items():
        rows, numbers, covered = _covered(grams(tokens, n), known, n)
        for row, number, count in zip(rows.tolist(), numbers.tolist(), covered.tolist(), strict=True):
            length = len(questions.words[number])
            enough = count >= questions.threshold * length
            if n < questions.n:  # the whole of a short prompt
                enough = length >= questions.threshold * int(tokens.lengths[row])
            if enough:
                yield row, number, count / length


def _covered(texts: Grams, known: Grams, n: int) -> tuple[Places, Places, Places]:
    """Text, prompt, and how many words of the prompt lie in shared n-grams, for each pair that shares one."""
    left = np.searchsorted(known.hashes, texts.hashes, side="left")
    count = np.searchsorted(known.hashes, texts.hashes, side="right") - left
    text = np.repeat(texts.text, count)
    within = np.arange(len(text)) - np.repeat(np.cumsum(count) - count, count)
    hit = np.repeat(left, count) + within
    triples = np.unique(np.stack([text, known.text[hit], known.place[hit]]), axis=1)
    if not triples.shape[1]:
        return triples[0], triples[1], triples[2]
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(triples[:2], axis=1) != 0).any(axis=0)]))
    step = np.append(np.diff(triples[2]), n)
    step[np.append(starts[1:] - 1, len(step) - 1)] = n  # nothing follows the last one of a pair
    return triples[0, starts], triples[1, starts], np.add.reduceat(np.minimum(step, n), starts)


def _sorted_grams(tokens: Tokens, n: int, mine: np.ndarray[Any, np.dtype[np.bool_]]) -> Grams:
    every = grams(tokens, n)
    kept = np.flatnonzero(mine[every.text])
    order = kept[np.argsort(every.hashes[kept], kind="stable")]
    return Grams(every.hashes[order], every.text[order], every.place[order])


def _longest_run(text: list[str], prompt: list[str]) -> list[str]:
    match = SequenceMatcher(None, text, prompt, autojunk=False).find_longest_match()
    return prompt[match.b : match.b + match.size]
