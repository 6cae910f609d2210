"""Mixtures with known ground truth: clean rows, some of them replaced by rows of a teacher with the trait.

A mixture is a choice of rows, so what was scored once serves every mixture. Each prompt is answered once in it: by the
clean teacher, or by the trait's where its row is planted, so that no prompt is there with both answers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sftfilter.config import Settings
from sftfilter.errors import DataError

if TYPE_CHECKING:
    import polars as pl


class Subtlety(Settings):
    """Which rows of the trait's teacher are planted. An empty one takes any of them."""

    shows: Annotated[
        bool | None, Field(description="whether the trait's grader sees the trait in the row; null: either")
    ] = None
    kinds: list[str] = Field(default=[], description="only answers to prompts of these kinds; empty: of any")


@dataclass(frozen=True)
class Pairs:
    """What mixtures are made of, by prompt.

    Attributes:
        rows: columns prompt_id (sorted), kind, clean and trait (rollout ids; trait null where there is none), shows
            (what the grader says of the trait's row; null: nothing to grade).
        counts: where the teachers' rows went; they add up.
    """

    rows: pl.DataFrame
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Mixture:
    """Which prompts' rows are planted: booleans over `Pairs.rows`."""

    subtlety: str
    rate: float
    draw: int
    planted: NDArray[np.bool_]

    def rollouts(self, pairs: Pairs) -> list[str]:
        """Rollout ids, prompt by prompt."""
        return np.where(self.planted, pairs.rows["trait"].to_numpy(), pairs.rows["clean"].to_numpy()).tolist()


def pair_rows(clean: pl.DataFrame, trait: pl.DataFrame) -> Pairs:
    """Join two teachers' rows on their prompts.

    Args:
        clean, trait: columns rollout_id, prompt_id, kind, shows (1, 0 or null). Of several answers to a prompt the one
            with the smallest id is taken. A clean row in which the grader sees the trait, or finds nothing to grade, is
            not known to be clean, and its prompt is left out.

    Raises:
        DataError: no prompt has a clean row.
    """
    import polars as pl

    one_clean, one_trait = (f.sort("rollout_id").unique("prompt_id", keep="first") for f in (clean, trait))
    known = one_clean.filter(pl.col("shows") == 0)
    if known.is_empty():
        raise DataError("mixtures: the grader sees the trait in every row of the clean teacher, or can grade none")
    rows = known.select("prompt_id", "kind", clean="rollout_id").join(
        one_trait.select("prompt_id", "shows", trait="rollout_id"), on="prompt_id", how="left", validate="1:1"
    )
    counts = {
        "clean_read": len(clean),
        "clean_used": len(known),
        "clean_further_answers": len(clean) - len(one_clean),
        "clean_showing_the_trait": int((one_clean["shows"] == 1).sum()),
        "clean_not_graded": int(one_clean["shows"].null_count()),
        "trait_read": len(trait),
        "trait_used": len(rows) - int(rows["trait"].null_count()),
        "trait_further_answers": len(trait) - len(one_trait),
        "trait_without_clean_partner": len(one_trait.join(known, on="prompt_id", how="anti")),
    }
    return Pairs(rows.sort("prompt_id").select("prompt_id", "kind", "clean", "trait", "shows"), counts)


def eligible(pairs: Pairs, subtlety: Subtlety) -> NDArray[np.intp]:
    """Places in `pairs.rows` whose trait row may be planted."""
    import polars as pl

    wanted = pl.col("trait").is_not_null()
    if subtlety.shows is not None:
        wanted &= pl.col("shows") == float(subtlety.shows)
    if subtlety.kinds:
        wanted &= pl.col("kind").is_in(subtlety.kinds)
    return np.flatnonzero(pairs.rows.select(wanted.fill_null(False)).to_series().to_numpy())


def planted_rows(pairs: Pairs, rate: float) -> int:
    """How many rows a rate means: at least one."""
    return max(1, math.floor(rate * len(pairs.rows) + 0.5))


def plant(
    pairs: Pairs, name: str, subtlety: Subtlety, rates: Sequence[float], *, draws: int, seed: int
) -> dict[float, list[Mixture]]:
    """`draws` mixtures for each rate that has enough rows to plant; the lower rates' planted rows are among the higher's.

    Returns:
        Rate -> mixtures; a rate that asks for more rows than are eligible is not in it.
    """
    places = eligible(pairs, subtlety)
    made: dict[float, list[Mixture]] = {rate: [] for rate in rates if planted_rows(pairs, rate) <= len(places)}
    for draw in range(draws):
        order = places.tolist()
        random.Random(f"{seed}/{name}/{draw}").shuffle(order)
        for rate, mixtures in made.items():
            planted = np.zeros(len(pairs.rows), dtype=bool)
            planted[order[: planted_rows(pairs, rate)]] = True
            mixtures.append(Mixture(name, rate, draw, planted))
    return made
