"""MinHash signatures, their bands, and the pairs that share one (Broder 1997; Leskovec, Rajaraman, Ullman, chapter 3)."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sftfilter.guards.texts import Texts, texts_of
from sftfilter.guards.tokens import Grams, canonical, character_tokens, mixed, shingles, word_tokens, words

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

PERMUTATIONS = 128
_RECALL = 0.98
"""Of pairs exactly at the threshold, whatever the number of bands that takes."""
_NEXT = 4
"""A row is paired with so many of the rows that follow it in a bucket, so that a large bucket stays affordable."""


def bands_for(threshold: float) -> tuple[int, int]:
    """Bands and rows a band: as many rows as still find pairs at the threshold, 1 - (1 - t^rows)^bands of them."""
    rows = 1
    for more in range(2, PERMUTATIONS + 1):
        if 1 - (1 - threshold**more) ** (PERMUTATIONS // more) < _RECALL:
            break
        rows = more
    return PERMUTATIONS // rows, rows


def shingle_sets(canonical_texts: pl.Series, unit: Literal["word", "character"], n: int) -> Grams:
    """Shingles of each text; several places of one text may hold the same."""
    if unit == "word":
        return shingles(word_tokens(words(canonical_texts)), n)
    return shingles(character_tokens(canonical_texts), n)


def sign(batch: pa.Table, texts: Texts, unit: Literal["word", "character"], n: int, threshold: float) -> pa.Table:
    """Signatures of a batch of texts.

    Returns:
        id and source; digest (16 bytes, of the canonical text: equal ones are exact duplicates); bands, a list of
        uint64 [bands], null where a text has no shingle.
    """
    import pyarrow as pa

    contents = canonical(texts_of(batch, texts.side))
    digests = [blake2b(text.encode(), digest_size=16).digest() for text in contents]
    found = shingle_sets(contents, unit, n)
    count, rows = bands_for(threshold)
    keys = _bands(found, len(contents), count, rows)
    empty = ~np.isin(np.arange(len(contents)), found.text)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(keys.ravel()), count, mask=pa.array(empty))
    return pa.table({"id": batch[texts.id], "source": batch["source"], "digest": digests, "bands": lists})


def candidates(bands: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Pairs of rows (first < second) with an equal band.

    Args:
        bands: uint64 [rows, bands].

    Returns:
        int64 [pairs, 2], sorted.
    """
    size = len(bands)
    found = np.zeros(0, np.int64)
    for band in range(bands.shape[1]):
        order = np.argsort(bands[:, band], kind="stable")
        keys = bands[order, band]
        pairs = [found]
        for step in range(1, min(_NEXT, size - 1) + 1):
            same = keys[step:] == keys[:-step]
            pairs.append(order[:-step][same] * size + order[step:][same])
        found = np.unique(np.concatenate(pairs))
    return np.stack([found // max(size, 1), found % max(size, 1)], axis=1)


def jaccard(pairs: pa.Table, contents: pa.Array, unit: Literal["word", "character"], n: int) -> pa.Table:
    """The true Jaccard similarity of the shingle sets of pairs.

    Args:
        pairs: int64 `first` and `second`, rows of `contents`.
        contents: canonical texts.
    """
    import polars as pl
    import pyarrow as pa

    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    used, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    found = shingle_sets(pl.Series("text", contents.take(pa.array(used)), dtype=pl.String), unit, n)
    sets = pl.DataFrame({"text": found.text, "shingle": found.hashes}).unique()
    sizes = np.bincount(sets["text"].to_numpy(), minlength=len(used))
    left, right = inverse[: len(first)], inverse[len(first) :]
    shared = (
        pl.DataFrame({"pair": np.arange(len(left)), "text": left, "other": right})
        .join(sets, on="text")
        .join(sets, left_on=["other", "shingle"], right_on=["text", "shingle"])
        .group_by("pair")
        .len()
    )
    both = np.zeros(len(left))
    both[shared["pair"].to_numpy()] = shared["len"].to_numpy()
    return pairs.append_column("jaccard", pa.array(both / (sizes[left] + sizes[right] - both)))


def _bands(found: Grams, texts: int, count: int, rows: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue] (a compiled module)

    ends = np.searchsorted(found.text, np.arange(texts + 1)).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(found.hashes, ends, PERMUTATIONS, 0)
    signatures = np.array(matrix.to_rows(), np.uint64).reshape(texts, PERMUTATIONS)
    cut = signatures[:, : count * rows].reshape(texts, count, rows)
    keys = np.zeros((texts, count), np.uint64)
    for row in range(rows):
        keys = mixed(keys + cut[:, :, row])
    return keys
