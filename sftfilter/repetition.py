"""How much of a text repeats itself: samplers that loop fill answers with one phrase, and judges grade those at random."""

from __future__ import annotations

_GRAM = 20
_WINDOW = 4000


def repeated_share(text: str) -> float:
    """Share of the text's end that was said before in it, from 0 to 1.

    Counted over runs of 20 characters in the last 4,000 (white space as one blank), so that it needs no words, and a
    text that begins well and ends in a loop is found. Ordinary prose stays below 0.1, code and tables below 0.3; a
    phrase said over and over comes near 1. Duplicate n-grams as a sign of bad text: Rae et al. 2021 (Gopher), A1.1.

    Returns:
        0 for texts too short to tell.
    """
    tail = " ".join(text[-2 * _WINDOW :].split())[-_WINDOW:]
    grams = len(tail) - _GRAM + 1
    if grams < 4 * _GRAM:
        return 0.0
    return 1 - len({tail[i : i + _GRAM] for i in range(grams)}) / grams
