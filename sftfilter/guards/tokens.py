"""Words, characters and n-grams of many texts at once, as 64-bit hashes that are the same on every machine.

A text is canonical first: NFKC, lower case, white space collapsed. A word is a run of letters and digits; in scripts
that put no spaces between words (Han, kana, Thai, Lao, Khmer, Myanmar) every character is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[{_UNSPACED}]|[\w--[{_UNSPACED}]]+"
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)
_SPAN = 1 << 20
"""Bytes of text that are hashed at a time; eight times as much and a little more is held."""

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Places = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Tokens:
    """Tokens of many texts, one text after another.

    Attributes:
        hashes: uint64 [tokens].
        offsets: int64 [texts + 1]; text i has the tokens from offsets[i] to offsets[i + 1].
    """

    hashes: Hashes
    offsets: Places

    @property
    def lengths(self) -> Places:
        """Tokens of each text, [texts]."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Grams:
    """N-grams of many texts: a hash, the text it is in and the place of its first token there, [n-grams] each."""

    hashes: Hashes
    text: Places
    place: Places


def canonical(texts: pl.Series) -> pl.Series:
    """NFKC, lower case, white space collapsed; null becomes an empty text."""
    return texts.fill_null("").str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def words(canonical_texts: pl.Series) -> pl.Series:
    """Lists of words."""
    return canonical_texts.str.extract_all(_WORD)


def word_tokens(word_lists: pl.Series) -> Tokens:
    """Tokens of lists of words."""
    offsets = np.concatenate([[0], np.cumsum(word_lists.list.len().to_numpy())]).astype(np.int64)
    return Tokens(_string_hashes(word_lists.explode().drop_nulls()), offsets)


def character_tokens(canonical_texts: pl.Series) -> Tokens:
    """Tokens of texts, a token for each code point."""
    codes = np.frombuffer("".join(canonical_texts.to_list()).encode("utf-32-le"), dtype="<u4")
    offsets = np.concatenate([[0], np.cumsum(canonical_texts.str.len_chars().to_numpy())]).astype(np.int64)
    return Tokens(mixed(codes.astype(np.uint64)), offsets)


def grams(tokens: Tokens, n: int) -> Grams:
    """Every run of n tokens within a text; a text with fewer has none."""
    count = len(tokens.hashes)
    if count < n:
        empty = np.zeros(0, np.int64)
        return Grams(np.zeros(0, np.uint64), empty, empty)
    windows = np.zeros(count - n + 1, np.uint64)
    for k in range(n):
        windows = windows * np.uint64(_BASE) + tokens.hashes[k : count - n + 1 + k]
    text = np.repeat(np.arange(len(tokens.offsets) - 1), tokens.lengths)[: len(windows)]
    start = np.arange(len(windows))
    whole = start + n <= tokens.offsets[text + 1]
    text = text[whole]
    return Grams(mixed(windows[whole]), text, start[whole] - tokens.offsets[text])


def shingles(tokens: Tokens, n: int) -> Grams:
    """As `grams`, but a text with 1 to n - 1 tokens has one shingle, all of them."""
    found = [grams(tokens, n)]
    lengths = tokens.lengths
    for short in range(1, n):
        if (lengths == short).any():
            runs = grams(tokens, short)
            alone = lengths[runs.text] == short
            found.append(Grams(runs.hashes[alone], runs.text[alone], runs.place[alone]))
    joined = [np.concatenate(parts) for parts in zip(*((g.hashes, g.text, g.place) for g in found), strict=True)]
    order = np.argsort(joined[1], kind="stable")
    return Grams(*(part[order] for part in joined))


def _string_hashes(strings: pl.Series) -> Hashes:
    """Polynomial in the bytes modulo 2^64, from prefix sums over the whole buffer, then mixed."""
    import pyarrow as pa

    array = strings.to_arrow().cast(pa.large_string())
    if len(array) == 0:
        return np.zeros(0, np.uint64)
    _, ends, data = array.buffers()
    bounds = np.frombuffer(ends, np.int64)[array.offset : array.offset + len(array) + 1]
    letters = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    hashes = np.empty(len(array), np.uint64)
    first = 0
    while first < len(array):
        last = max(first + 1, int(np.searchsorted(bounds, bounds[first] + _SPAN, side="right")) - 1)
        hashes[first:last] = _span_hashes(letters[bounds[first] : bounds[last]], bounds[first : last + 1])
        first = last
    return hashes


def _span_hashes(letters: np.ndarray[Any, np.dtype[np.uint8]], bounds: Places) -> Hashes:
    bounds = bounds - bounds[0]
    powers = _powers(_BASE, len(letters))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((letters.astype(np.uint64) + np.uint64(1)) * powers)])
    shifts = np.concatenate([np.ones(1, np.uint64), _powers(_INVERSE, len(letters))])
    # powers start at B^1 and shifts at B^0, so a word's hash does not depend on where it stands
    return mixed((sums[bounds[1:]] - sums[bounds[:-1]]) * shifts[bounds[:-1]])


def _powers(base: int, count: int) -> Hashes:
    return np.cumprod(np.full(count, base, np.uint64), dtype=np.uint64)


def mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), which spreads every bit over all others."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
