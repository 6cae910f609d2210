"""Readings: how much of the trait each arm keeps, and whether that is sure enough to be called gone or staying.

An arm's share is (y - y0) / (y1 - y2): y1 the original pipeline, y2 the clean comparator (the alternate pipeline, or else
the alternate teacher), y0 the arm's own clean comparator. An arm is sure at a level of confidence if its interval at that
level excludes the opposite bound; which level that is, is for those who draw conclusions to say (see `hypotheses.weigh`).
"""

from __future__ import annotations

from collections.abc import Mapping
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
LEVEL = 0.95
_NO_GAP = 1e-9


@dataclass(frozen=True)
class Bounds:
    """A share of at most `gone` is gone, of at least `stays` stays.

    Attributes:
        clean_rate: the most that a comparator may show to pass for clean.
        seeds: fewer training seeds that an arm shares with its comparators tell nothing, unless no arm has more.
    """

    gone: float
    stays: float
    clean_rate: float
    seeds: int = 3


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
        share = "share not defined" if self.share is None else f"share {_two(self.share)}"
        interval = "" if self.low is None or self.high is None else f" [{_two(self.low)}, {_two(self.high)}]"
        return f"{self.role}: {share}{interval} (rate {self.rate:.0%})"


def _two(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # never -0.00


class Readings:
    """All arms of one study, read at any level of confidence.

    Args:
        cells: role -> matrix [prompt, seed] of grades, NaN where nothing could be graded.
    """

    def __init__(self, cells: Mapping[str, Cells], bounds: Bounds) -> None:
        self.cells, self.bounds = cells, bounds
        self.clean = clean_role(cells, bounds.clean_rate)
        self._known: dict[tuple[str, ...], dict[float, Estimate]] = {}

    def at(self, level: float = LEVEL) -> dict[str, Reading]:
        """Role -> reading; none when the arms that define the gap are not there. Intervals shown are the 95 % ones."""
        if self.clean is None or "original" not in self.cells:
            return {}
        made = {} if self.clean == "pipeline" else {self.clean: _comparator(self.clean, self.cells, self.bounds, level)}
        for role in self.cells:
            own = OWN_CLEAN.get(role, self.clean)
            if role not in NOT_READ and role != self.clean and own in self.cells:
                made[role] = self._read(role, own, level)
        return made

    def unlike(self, role: str, other: str, level: float = LEVEL) -> Estimate | None:
        """How much larger one arm's share is than another's; None when one is not there."""
        if self.clean is None or not {role, other, "original"} <= set(self.cells):
            return None
        return self._share(role, other, level) if self._enough_seeds(role, other) else None

    def _enough_seeds(self, role: str, own: str) -> bool:
        """Whether an arm did not lose so many of the study's seeds that its interval is one over prompts only."""
        from sftfilter.stats import on_common_seeds

        arms = self._arms(role, own)
        columns = next(iter(on_common_seeds(arms).values())).shape[1]
        return columns >= min(self.bounds.seeds, self.cells["original"].shape[1])

    def _arms(self, role: str, own: str) -> dict[str, Cells]:
        """All that a share is made of."""
        assert self.clean is not None
        return _same_seeds({name: self.cells[name] for name in dict.fromkeys(("original", self.clean, role, own))})

    def _read(self, role: str, own: str, level: float) -> Reading:
        import numpy as np

        shown = self._share(role, own, LEVEL)
        reading = Reading(role, float(np.nanmean(self.cells[role])), shown.estimate, shown.low, shown.high)
        if shown.low is None:
            return replace(reading, share=None)
        claimed, sure = _claimed(reading, self.bounds), self._share(role, own, level)
        if claimed and _excludes(sure.low, sure.high, claimed, self.bounds) and self._enough_seeds(role, own):
            return replace(reading, word=claimed)
        return reading

    def _share(self, role: str, own: str, level: float) -> Estimate:
        """(y_role - y_own) / (y1 - y2)."""
        import numpy as np

        from sftfilter.stats import crossed_bootstrap

        clean = self.clean
        assert clean is not None
        known = self._known.setdefault((role, own), {})
        if level not in known:

            def share(y: Mapping[str, Any]) -> Any:
                gap = np.asarray(y["original"] - y[clean], dtype=float)
                part = np.broadcast_to(np.asarray(y[role] - y[own], dtype=float), gap.shape)
                return np.divide(part, gap, out=np.full(gap.shape, np.nan), where=np.abs(gap) > _NO_GAP)[()]

            known[level] = crossed_bootstrap(self._arms(role, own), share, level=level)
        return known[level]


def clean_role(cells: Mapping[str, Cells], clean_rate: float) -> str | None:
    """The clean comparator: the alternate pipeline, else the alternate teacher, or the untrained base if only that is clean."""
    import numpy as np

    if "pipeline" in cells:
        return "pipeline"
    is_clean = {role: float(np.nanmean(cells[role])) <= clean_rate for role in ("alternate", "base") if role in cells}
    if is_clean.get("alternate") or not is_clean.get("base"):
        return "alternate" if "alternate" in cells else None
    return "base"


def _comparator(role: str, cells: Mapping[str, Cells], bounds: Bounds, level: float) -> Reading:
    """The comparator itself has no share over another; its rate as a share of the original's says whether it is clean."""
    from sftfilter.stats import rate

    own, original = rate(cells[role]), rate(cells["original"]).estimate
    if not original or own.estimate is None or own.low is None or own.high is None:
        return Reading(role, own.estimate or 0.0, None, None, None)
    made = Reading(role, own.estimate, own.estimate / original, own.low / original, own.high / original)
    claimed, sure = _claimed(made, bounds), rate(cells[role], level)
    if claimed and sure.low is not None and sure.high is not None:
        low, high = sure.low / original, sure.high / original
        return replace(made, word=claimed) if _excludes(low, high, claimed, bounds) else made
    return made


def _same_seeds(arms: Mapping[str, Cells]) -> dict[str, Cells]:
    """An untrained base has one model for all seeds: its column stands beside each of them."""
    import numpy as np

    seeds = max(matrix.shape[1] for matrix in arms.values())
    return {n: np.repeat(m, seeds, axis=1) if m.shape[1] == 1 and seeds > 1 else m for n, m in arms.items()}


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
