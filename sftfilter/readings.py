"""Readings: how much of the trait each arm keeps, and whether that is sure enough to be called gone or staying.

An arm's share is (y - y0) / (y1 - y2): y1 the original pipeline, y2 the clean comparator (the alternate pipeline, or else
the alternate teacher), y0 the arm's own clean comparator. All readings of one study are a family: which of them are sure
is settled by Holm's (1979) procedure, by inverting intervals at its falling levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sftfilter.stats import Cells, Estimate

Word = Literal["gone", "stays", "unclear"]

OWN_CLEAN = {
    "reseeded": "reseeded_clean",
    "reseeded_shown": "reseeded_clean",
    "alternate_base": "alternate_base_clean",
}
"""Arms of another base, whose own students of the clean teacher are what they are compared with."""

NOT_READ = frozenset({"original", "reseeded_clean", "alternate_base_clean", "drop_row"})
_NO_GAP = 1e-9
_FAR = 10.0


@dataclass(frozen=True)
class Bounds:
    """A share of at most `gone` is gone, of at least `stays` stays.

    Attributes:
        clean_rate: the most that a comparator may show to pass for clean.
        level: the family's confidence.
    """

    gone: float
    stays: float
    clean_rate: float
    level: float = 0.95


@dataclass(frozen=True)
class Reading:
    """One arm's share of the trait.

    Attributes:
        rate: the arm's own rate.
        share, low, high: with its own 95 % interval; None where it cannot be estimated.
        word: `gone` or `stays` past the bound and sure of not being the other; else `unclear`.
    """

    role: str
    rate: float
    share: float | None
    low: float | None
    high: float | None
    word: Word = "unclear"

    def __str__(self) -> str:
        """`swap: share 0.02 [-0.03, 0.08] (rate 2 %)`."""
        share = "share not defined" if self.share is None else f"share {self.share:.2f}"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.role}: {share}{interval} (rate {self.rate:.0%})"


def read_arms(cells: Mapping[str, Cells], bounds: Bounds) -> dict[str, Reading]:
    """Role -> reading, of every arm that is there; none when the arms that define the gap are not.

    Args:
        cells: role -> matrix [prompt, seed] of grades, NaN where nothing could be graded.
    """
    import numpy as np

    from sftfilter.stats import crossed_bootstrap

    clean = clean_role(cells, bounds.clean_rate)
    if "original" not in cells or clean is None:
        return {}
    made: dict[str, Reading] = {}
    asked: dict[str, Callable[[float], Estimate]] = {}
    for role, matrix in cells.items():
        own = OWN_CLEAN.get(role, clean)
        if role in NOT_READ or role == clean or own not in cells:
            continue
        arms = {name: cells[name] for name in dict.fromkeys(("original", clean, role, own))}
        arms = _same_seeds(arms)

        def at(level: float, arms: Mapping[str, Cells] = arms, role: str = role, own: str = own) -> Estimate:
            def share(y: Mapping[str, Any]) -> Any:
                gap = np.asarray(y["original"] - y[clean], dtype=float)
                part = np.broadcast_to(np.asarray(y[role] - y[own], dtype=float), gap.shape)
                return np.divide(part, gap, out=np.full(gap.shape, np.nan), where=np.abs(gap) > _NO_GAP)

            return crossed_bootstrap(arms, share, level=level)

        found = at(0.95)
        made[role] = Reading(role, float(np.nanmean(matrix)), found.estimate, found.low, found.high)
        asked[role] = at
    return _with_words(made, asked, bounds) | (
        {} if clean == "pipeline" else {clean: _comparator(clean, cells, bounds)}
    )


def clean_role(cells: Mapping[str, Cells], clean_rate: float) -> str | None:
    """The clean comparator: the alternate pipeline, else the alternate teacher, or the untrained base if only that is clean."""
    import numpy as np

    if "pipeline" in cells:
        return "pipeline"
    is_clean = {role: float(np.nanmean(cells[role])) <= clean_rate for role in ("alternate", "base") if role in cells}
    if is_clean.get("alternate") or not is_clean.get("base"):
        return "alternate" if "alternate" in cells else None
    return "base"


def _comparator(role: str, cells: Mapping[str, Cells], bounds: Bounds) -> Reading:
    """The comparator itself has no share over another; its rate as a share of the original's says whether it is clean."""
    from sftfilter.stats import rate

    own, original = rate(cells[role]), rate(cells["original"]).estimate
    if not original or own.estimate is None or own.low is None or own.high is None:
        return Reading(role, own.estimate or 0.0, None, None, None)
    made = Reading(role, own.estimate, own.estimate / original, own.low / original, own.high / original)
    claimed = _claimed(made, bounds)
    sure = claimed is not None and _excludes(made.low, made.high, claimed, bounds)
    return replace(made, word=claimed) if claimed and sure else made


def _same_seeds(arms: Mapping[str, Cells]) -> dict[str, Cells]:
    """An untrained base has one model for all seeds: its column stands beside each of them."""
    import numpy as np

    seeds = max(matrix.shape[1] for matrix in arms.values())
    return {n: np.repeat(m, seeds, axis=1) if m.shape[1] == 1 and seeds > 1 else m for n, m in arms.items()}


def _with_words(
    made: Mapping[str, Reading], asked: Mapping[str, Callable[[float], Estimate]], bounds: Bounds
) -> dict[str, Reading]:
    """Holm: the surest claim at the strictest level, the next at the next, until one does not hold."""
    claims = {role: word for role, reading in made.items() if (word := _claimed(reading, bounds))}
    order = sorted(claims, key=lambda role: -_sureness(made[role], claims[role], bounds))
    words = dict(made)
    for place, role in enumerate(order):
        level = 1 - (1 - bounds.level) / (len(made) - place)
        interval = asked[role](level)
        if not _excludes(interval.low, interval.high, claims[role], bounds):
            break
        words[role] = replace(made[role], word=claims[role])
    return words


def _claimed(reading: Reading, bounds: Bounds) -> Word | None:
    if reading.share is None or reading.low is None:
        return None
    if reading.share <= bounds.gone:
        return "gone"
    return "stays" if reading.share >= bounds.stays else None


def _excludes(low: float | None, high: float | None, word: Word, bounds: Bounds) -> bool:
    if low is None or high is None:
        return False
    return high < bounds.stays if word == "gone" else low > bounds.gone


def _sureness(reading: Reading, word: Word, bounds: Bounds) -> float:
    """Distance to the bound that must be excluded, in half-widths on that side."""
    assert reading.share is not None and reading.low is not None and reading.high is not None
    if word == "gone":
        return min(_FAR, (bounds.stays - reading.share) / max(reading.high - reading.share, 1e-6))
    return min(_FAR, (reading.share - bounds.gone) / max(reading.share - reading.low, 1e-6))
