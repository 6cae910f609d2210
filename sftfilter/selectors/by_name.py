"""Selectors that need no score: a field of the prompt, or a list of ids."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sftfilter.config import SpecPath
from sftfilter.errors import DataError
from sftfilter.selectors.contract import Given, SelectorSettings, Taken


class ByField(SelectorSettings):
    """Rows whose prompt has a field of a given value, such as its kind."""

    kind: Literal["field"]
    field: Literal["kind", "source"] = "kind"
    equals: str

    def take(self, given: Given) -> Taken:
        values = given.pool.column(self.field)
        known = sorted(map(str, values.unique()))
        if self.equals not in known:
            raise DataError(f"no prompt has {self.field} '{self.equals}'; there are: {', '.join(known)}")
        return Taken(values == self.equals)


class Ids(SelectorSettings):
    """Rows that are listed, by rollout id or by the id of their prompt."""

    kind: Literal["ids"]
    ids: list[str] | None = None
    file: Annotated[SpecPath | None, Field(description="text, an id a line")] = None

    @model_validator(mode="after")
    def _one_list(self) -> Ids:
        if (self.ids is None) == (self.file is None):
            raise ValueError("give either ids or file")
        return self

    def take(self, given: Given) -> Taken:
        import polars as pl

        wanted = pl.Series(self._listed(), dtype=pl.String).unique()
        pool, frame = given.pool, given.pool.frame
        unknown = wanted.filter(~wanted.is_in(frame.rollout_ids.implode()) & ~wanted.is_in(frame.prompt_ids.implode()))
        if len(unknown):
            named = ", ".join(unknown.sort()[:5].to_list()) + (
                f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            )
            raise DataError(
                f"{len(unknown)} of {len(wanted)} listed ids are neither a prompt's nor a rollout's: {named}; list those of "
                "the columns `prompt_id` or `rollout_id` of scores.parquet, where your own ids stand in `source_id`"
            )
        rows = frame.rollout_ids.slice(pool.start, len(pool)).is_in(wanted.implode())
        prompts = frame.prompt_ids.is_in(wanted.implode()).to_numpy()
        return Taken(rows | pl.Series(prompts[pool.prompt]))

    def _listed(self) -> list[str]:
        if self.file is None:
            return self.ids or []
        try:
            with open(self.file, encoding="utf-8") as lines:
                return [word for line in lines if (word := line.strip())]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.file}: the list of ids cannot be read: {error}") from error
