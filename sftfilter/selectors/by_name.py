"""Selectors that need no score: a field of the prompt, or a list of ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from sftfilter.config import SpecPath
from sftfilter.errors import DataError
from sftfilter.selectors.contract import Given, SelectorSettings, Taken

if TYPE_CHECKING:
    import polars as pl

    from sftfilter.score_frame import Pool, ScoreFrame


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
    """Rows that are listed: by rollout id, by the id of their prompt, or by what your files call either in their `id`.

    Several answers that share an own id and a prompt are all selected; an own id of several prompts is refused.
    """

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
        computed = wanted.is_in(frame.rollout_ids.implode()) | wanted.is_in(frame.prompt_ids.implode())
        own = wanted.filter(~computed)
        unknown = own.filter(~_called(own, frame))
        if len(unknown):
            raise DataError(
                f"{len(unknown)} of {len(wanted)} listed ids are neither a prompt's nor a rollout's: "
                f"{_first(unknown.sort().to_list())}; list your own, as they stand in the `id` of the files (say which "
                "column that is with `columns: {id: ...}`), or those of the columns `prompt_id` or `rollout_id` of "
                "scores.parquet. Rows that were quarantined or left out as duplicates have none"
            )
        rows = frame.rollout_ids.slice(pool.start, len(pool)).is_in(wanted.implode())
        prompts = frame.prompt_ids.is_in(wanted.implode())
        if len(own):
            own_rows, own_prompts = _own(own, pool)
            rows, prompts = rows | own_rows, prompts | own_prompts
        return Taken(rows | pl.Series(prompts.to_numpy()[pool.prompt]))

    def _listed(self) -> list[str]:
        if self.file is None:
            return self.ids or []
        try:
            with open(self.file, encoding="utf-8") as lines:
                return [word for line in lines if (word := line.strip())]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.file}: the list of ids cannot be read: {error}") from error


def _called(own: pl.Series, frame: ScoreFrame) -> pl.Series:
    """Whether a file calls any row or prompt so. Another teacher's rows count: one list may be used on several."""
    import polars as pl

    known = [ids.implode() for ids in (frame.source_ids, frame.prompt_source_ids) if ids is not None]
    found = pl.Series([False], dtype=pl.Boolean).new_from_index(0, len(own))
    for ids in known:
        found |= own.is_in(ids)
    return found


def _own(own: pl.Series, pool: Pool) -> tuple[pl.Series, pl.Series]:
    """Rows of the pool, and prompts of the frame, that their files call so.

    Raises:
        DataError: one is the id of several prompts.
    """
    import polars as pl

    frame, wanted = pool.frame, own.implode()
    assert frame.source_ids is not None
    assert frame.prompt_source_ids is not None
    ids = frame.source_ids.slice(pool.start, len(pool))
    rows, prompts = ids.is_in(wanted).fill_null(False), frame.prompt_source_ids.is_in(wanted).fill_null(False)
    meant = pl.concat(
        [
            pl.DataFrame({"id": ids.filter(rows), "prompt": frame.prompt_ids.gather(pool.prompt).filter(rows)}),
            pl.DataFrame({"id": frame.prompt_source_ids.filter(prompts), "prompt": frame.prompt_ids.filter(prompts)}),
        ]
    ).unique()
    several = meant.filter(pl.col("id").is_duplicated()).group_by("id").agg(pl.col("prompt").sort()).sort("id")
    if len(several):
        named = [f"'{one}' (prompt ids {_first(found)})" for one, found in several.iter_rows()]
        raise DataError(
            f"{len(several)} listed ids stand for several prompts each: {_first(named)}; list the prompt ids that you mean"
        )
    return rows, prompts


def _first(words: list[str], most: int = 5) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
