"""Subsets S that leave nothing to compare: those that hold none of an arm's rows, or every one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sftfilter.interventions import Intervention

Counts = Mapping[str, int]


def subset_notes(
    noun: str, arms: Mapping[str, tuple[str | None, Intervention | None]], counts: Mapping[str, Sequence[Counts]]
) -> list[str]:
    """A line for each arm whose S, with some seed, is nothing or everything.

    Args:
        noun: what an arm is called here.
        arms: name -> whose rows, changed how.
        counts: name -> rows by what became of them, once for each seed.
    """
    untouched: dict[str | None, str] = {}
    for name, (teacher, change) in arms.items():
        if change is None:
            untouched.setdefault(teacher, name)
    found = []
    for name, (teacher, change) in arms.items():
        if change is None:
            continue
        same = untouched.get(teacher, f"teacher {teacher} wrote")
        for what, seeds in (
            (f"none of its rows, so it is trained on the same rows as {same}", [_none_hit(c) for c in counts[name]]),
            (f"every one of its rows, so none is left as in {same}", [_all_hit(c) for c in counts[name]]),
        ):
            if any(seeds):
                which = "" if all(seeds) else f" with {sum(seeds)} of {len(seeds)} seeds"
                found.append(f"{noun} {name}: selector '{change.subset}' selects{which} {what}")
    return found


def _hit(counts: Counts) -> int:
    return counts["dropped"] + counts["swapped"] + counts["rewritten"]


def _none_hit(counts: Counts) -> bool:
    return not _hit(counts)


def _all_hit(counts: Counts) -> bool:
    return bool(_hit(counts)) and not counts["kept"]
