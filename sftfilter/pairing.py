"""Which prompts several teachers answer together: a swap needs a partner for every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from sftfilter.artifacts import Artifact

_NAMED = 3
_CHARACTERS = 60


@dataclass(frozen=True)
class Named:
    """Some prompts: how many, and the first few as `id "beginning"`."""

    count: int
    first: list[str]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return ", ".join(self.first) + more


@dataclass(frozen=True)
class Pairing:
    """How the answers of several teachers match.

    Attributes:
        prompts: that any teacher answers.
        by_all: that every teacher answers.
        missing: teacher -> prompts that others answer and it does not.
        unequal: prompts that all answer, but not equally often.
    """

    prompts: int
    by_all: int
    missing: Mapping[str, Named]
    unequal: Named

    def lines(self) -> list[str]:
        """What a person should be told: nothing, if every teacher answers every prompt equally often."""
        lines = [f"{t} lacks {n.count} prompts that others answer: {n}" for t, n in self.missing.items() if n.count]
        if lines:
            lines.insert(0, f"{self.by_all} of {self.prompts} prompts are answered by all of {', '.join(self.missing)}")
        if self.unequal.count:
            lines.append(f"{self.unequal.count} prompts are answered a different number of times: {self.unequal}")
        return lines


def pairing(rollouts: Mapping[str, Artifact]) -> Pairing:
    """Compare the prompts of each teacher's rollouts."""
    import polars as pl

    teachers = list(rollouts)
    counted = [
        pl.scan_parquet(a.path / "rollouts.parquet")
        .group_by("prompt_id")
        .agg(pl.len().alias("rows"))
        .with_columns(teacher=pl.lit(name))
        for name, a in rollouts.items()
    ]
    if not counted:
        return Pairing(0, 0, {}, Named(0, []))
    long = pl.concat(counted).collect()
    wide = long.pivot("teacher", index="prompt_id", values="rows").sort("prompt_id")
    present = pl.all_horizontal(pl.col(t).is_not_null() for t in teachers)
    both = wide.filter(present)
    differ = both.filter(pl.any_horizontal(pl.col(t) != pl.col(teachers[0]) for t in teachers))
    missing = {t: _named(wide.filter(pl.col(t).is_null())["prompt_id"], rollouts) for t in teachers}
    return Pairing(len(wide), len(both), missing, _named(differ["prompt_id"], rollouts))


def _named(ids: pl.Series, rollouts: Mapping[str, Artifact]) -> Named:
    """Only the first few prompts' texts are looked up."""
    import polars as pl

    wanted = ids.head(_NAMED).to_list()
    if not wanted:
        return Named(0, [])
    text = pl.col("messages").list.last().struct.field("content").str.slice(0, _CHARACTERS)
    texts: dict[str, str] = {}
    for artifact in rollouts.values():
        rows = pl.scan_parquet(artifact.path / "rollouts.parquet").filter(pl.col("prompt_id").is_in(wanted))
        texts |= dict(rows.select("prompt_id", text).collect().iter_rows())
    return Named(len(ids), [f'{i} "{" ".join(texts[i].split())}"' for i in wanted])
