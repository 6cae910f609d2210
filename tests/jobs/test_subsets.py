"""Subsets that hold nothing or everything are told."""

from __future__ import annotations

from jobs.subsets import Counts, subset_notes
from sftfilter.interventions import DropRow, Intervention, Swap

DROP, SWAP = DropRow(kind="drop_row", subset="S"), Swap(kind="swap", subset="S", to="C")


def _counts(kept: int, dropped: int = 0, swapped: int = 0, rewritten: int = 0) -> Counts:
    return {"kept": kept, "dropped": dropped, "swapped": swapped, "rewritten": rewritten, "added": 0}


def test_arms_that_equal_another_or_keep_nothing_are_named() -> None:
    arms: dict[str, tuple[str | None, Intervention | None]] = {
        "base": (None, None),
        "all-T": ("T", None),
        "usual": ("T", DROP),
        "same": ("T", SWAP),
        "swapped": ("T", SWAP),
        "of-C": ("C", DROP),
        "lucky": ("T", DROP),
    }
    counts = {
        "usual": [_counts(6, 4), _counts(6, 4)],
        "same": [_counts(10), _counts(10)],
        "swapped": [_counts(0, swapped=10), _counts(0, swapped=10)],
        "of-C": [_counts(10), _counts(10)],
        "lucky": [_counts(10), _counts(9, 1)],
    }
    assert subset_notes("arm", arms, counts) == [
        "arm same: selector 'S' selects none of its rows, so it is trained on the same rows as all-T",
        "arm swapped: selector 'S' selects every one of its rows, so none is left as in all-T",
        "arm of-C: selector 'S' selects none of its rows, so it is trained on the same rows as teacher C wrote",
        "arm lucky: selector 'S' selects with 1 of 2 seeds none of its rows, so it is trained on the same rows as all-T",
    ]
