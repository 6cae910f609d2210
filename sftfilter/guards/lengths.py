"""Tokens of prompts and answers, by teacher and source, against the context and what training admits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import Settings
from sftfilter.errors import DataError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from sftfilter.chat_format import ChatFormat

VERSION = 2
_MEASURED = ("prompt", "answer", "total")


class TokenLengths(Settings):
    """The token-length report."""

    quantiles: list[Annotated[float, Field(ge=0, le=1)]] = Field(default=[0.0, 0.5, 0.9, 0.99, 1.0], min_length=1)


def measure_lengths(
    settings: TokenLengths,
    rollouts: Mapping[str, Artifact],
    store: Store,
    *,
    chat: ChatFormat,
    context_length: int,
    max_length: int,
) -> Artifact:
    """Tables `lengths`, `summary` and `too_long`.

    lengths: rollout_id, prompt_id, teacher, source, prompt_tokens, answer_tokens (null with `error`), total_tokens.
    summary: teacher, source, rows, errors, over_context, over_max_length, and a column for each measure and quantile,
        such as `answer_p50`.
    too_long: the rows of `lengths` above `max_length` or `context_length`, the longest first.

    Args:
        context_length: of the base model, tokens.
        max_length: tokens of prompt and answer that a training row may have (`training.max_length`).
    """
    limits = {"context_length": context_length, "max_length": max_length}

    def make(folder: Path) -> dict[str, Any]:
        import polars as pl

        from sftfilter.guards.texts import count_rows, stream

        columns = ["rollout_id", "prompt_id", "messages", "completion", "teacher", "source"]
        paths = [artifact.path / "rollouts.parquet" for artifact in rollouts.values()]
        parts = [pl.DataFrame(made) for path in paths for made in stream(path, columns, partial(lengths_of, chat=chat))]
        rows = pl.concat(parts).sort("teacher", "rollout_id")
        expected = sum(count_rows(path) for path in paths)
        if len(rows) != expected:
            raise DataError(f"token lengths: {expected} rollouts went in and {len(rows)} rows came out")
        over = (pl.col("total_tokens") > min(max_length, context_length)).fill_null(False)
        too_long = rows.filter(over).sort("total_tokens", "rollout_id", descending=[True, False])
        summary = _summary(rows, settings.quantiles, context_length, max_length)
        for name, table in (("lengths", rows), ("summary", summary), ("too_long", too_long)):
            write_table(folder, name, table.to_arrow())
        totals = {name: int(summary[name].sum()) for name in ("rows", "errors", "over_context", "over_max_length")}
        return totals | limits

    return store.build(
        "token-lengths",
        version=VERSION,
        settings=settings.model_dump(mode="json") | limits,
        inputs={"format": chat.hash} | {f"of {teacher}": artifact.key for teacher, artifact in rollouts.items()},
        make=make,
    )


def lengths_of(batch: pa.Table, chat: ChatFormat) -> pa.Table:
    """Token counts of a batch of rollouts, as training counts them; a row that the template refuses gets an `error`."""
    import pyarrow as pa

    rendered: list[tuple[str, str]] = []
    errors: list[str | None] = []
    for messages, completion in zip(batch["messages"].to_pylist(), batch["completion"].to_pylist(), strict=True):
        error = None
        try:
            if completion is None:
                raise DataError("no completion")
            rendered.append(chat.rendered(messages, completion))
        except Exception as problem:  # templates raise what they like
            error = f"{type(problem).__name__}: {problem}"[:500]
        errors.append(error)
    counted = iter(_counted(rendered, chat))
    pairs: list[tuple[int | None, int | None]] = []
    for row, error in enumerate(errors):
        found = (None, None) if error else next(counted)
        if isinstance(found, str):
            errors[row], found = found, (None, None)
        pairs.append(found)
    prompt, answer = (pa.array([pair[side] for pair in pairs], pa.int64()) for side in (0, 1))
    kept = batch.select(["rollout_id", "prompt_id", "teacher", "source"])
    total = pa.array([None if p is None or a is None else p + a for p, a in pairs], pa.int64())
    for name, column in (("prompt_tokens", prompt), ("answer_tokens", answer), ("total_tokens", total)):
        kept = kept.append_column(name, column)
    return kept.append_column("error", pa.array(errors, pa.string()))


def _counted(rendered: list[tuple[str, str]], chat: ChatFormat) -> list[tuple[int, int] | str]:
    """Tokens of prompt and answer, or why a row has none."""
    try:
        return list(chat.token_counts(rendered))
    except DataError as problem:
        if len(rendered) == 1:
            return [f"{type(problem).__name__}: {problem}"[:500]]
        return [one for pair in rendered for one in _counted([pair], chat)]


def _summary(rows: pl.DataFrame, quantiles: list[float], context_length: int, max_length: int) -> pl.DataFrame:
    import polars as pl

    measures = [
        pl.col(f"{what}_tokens").quantile(q, "nearest").cast(pl.Int64).alias(f"{what}_p{100 * q:g}")
        for what in _MEASURED
        for q in quantiles
    ]
    counts = [
        pl.len().cast(pl.Int64).alias("rows"),
        pl.col("error").is_not_null().sum().cast(pl.Int64).alias("errors"),
        (pl.col("total_tokens") > context_length).sum().cast(pl.Int64).alias("over_context"),
        (pl.col("total_tokens") > max_length).sum().cast(pl.Int64).alias("over_max_length"),
    ]
    return rows.group_by("teacher", "source").agg(*counts, *measures).sort("teacher", "source")
