"""The rows that a person reads: a sample from each decile of a scorer's scores, with the other teachers' answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

_TEXT = 3000
"""Characters kept of a text; a page holds hundreds of them."""


def strata(rows: pl.DataFrame, scorer: str, count: int) -> list[dict[str, Any]]:
    """One teacher's scored rows cut into ten parts of equal size, lowest first, with a few rows of each.

    Parts that hold the same single score are joined: a lexicon may score seven deciles 0. The rows are those with the
    lowest rollout ids, which are hashes: a fixed random sample.

    Returns:
        first and last (deciles, 1 to 10), low and high (scores), rows, and sample: rollout ids from low to high scores.
    """
    import polars as pl

    ranked = rows.select("rollout_id", pl.col(scorer).alias("score")).drop_nulls().sort("score", "rollout_id")
    if ranked.is_empty():
        return []
    decile = (pl.int_range(pl.len()) * 10 // pl.len()).alias("decile")
    parts = ranked.with_columns(decile).group_by("decile", maintain_order=True)
    spans = parts.agg(low=pl.col("score").min(), high=pl.col("score").max(), rows=pl.len()).to_dicts()
    joined: list[dict[str, Any]] = []
    for span in spans:
        same = joined and joined[-1]["low"] == joined[-1]["high"] == span["low"] == span["high"]
        if same:
            joined[-1]["last"] = span["decile"] + 1
            joined[-1]["rows"] += span["rows"]
        else:
            numbers = {"first": span["decile"] + 1, "last": span["decile"] + 1}
            joined.append(numbers | {key: span[key] for key in ("low", "high", "rows")})
    start = 0
    for part in joined:
        inside = ranked.slice(start, part["rows"])
        part["sample"] = inside.sort("rollout_id").head(count).sort("score", "rollout_id")["rollout_id"].to_list()
        start += part["rows"]
    return joined


def sampled_rows(
    table: Path, rollouts: Mapping[str, Path], rollout_ids: Iterable[str], scorers: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """rollout id -> the row with its texts and scores, and each other teacher's first answer to the same prompt.

    Args:
        table: the joined table of scores.
        rollouts: teacher -> its rollouts table.
    """
    import polars as pl

    wanted = sorted(set(rollout_ids))
    scored = pl.scan_parquet(table, glob=False)
    prompts = scored.filter(pl.col("rollout_id").is_in(wanted)).select("prompt_id").unique()
    rows = scored.join(prompts, on="prompt_id", how="semi").sort("rollout_id").collect()
    texts = {row["rollout_id"]: row for row in _texts(rollouts, rows).iter_rows(named=True)}
    answers: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows.iter_rows(named=True):
        found = _row(row, texts.get(row["rollout_id"], {}), scorers)
        answers.setdefault(row["prompt_id"], {}).setdefault(row["teacher"], []).append(found)
    by_id = {one["id"]: one for teachers in answers.values() for group in teachers.values() for one in group}
    return {
        identifier: by_id[identifier] | {"others": _others(by_id[identifier], answers)}
        for identifier in wanted
        if identifier in by_id
    }


def _texts(rollouts: Mapping[str, Path], rows: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    turn = pl.element()
    turns = pl.col("messages").list.eval(
        pl.format("[{}] {}", turn.struct.field("role"), turn.struct.field("content").fill_null(""))
    )
    last = pl.col("messages").list.last().struct.field("content")
    prompt = pl.when(pl.col("messages").list.len() > 1).then(turns.list.join("\n\n")).otherwise(last)
    wanted = rows.lazy().select("rollout_id")
    parts = [
        pl.scan_parquet(path, glob=False)
        .join(wanted, on="rollout_id", how="semi")
        .select(
            "rollout_id",
            prompt.str.head(_TEXT).alias("prompt"),
            last.str.head(_TEXT).alias("last_turn"),
            pl.col("completion").str.head(_TEXT),
        )
        for path in rollouts.values()
    ]
    return pl.concat(parts).collect(engine="streaming")


def _row(row: Mapping[str, Any], texts: Mapping[str, Any], scorers: Sequence[str]) -> dict[str, Any]:
    return {
        "id": row["rollout_id"],
        "prompt_id": row["prompt_id"],
        "teacher": row["teacher"],
        "kind": row["kind"],
        "source": row["source"],
        "characters": row["characters"],
        "scores": {name: row[name] for name in scorers},
        "prompt": texts.get("prompt"),
        "last_turn": texts.get("last_turn"),
        "completion": texts.get("completion"),
    }


def _others(
    row: Mapping[str, Any], answers: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
) -> list[dict[str, Any]]:
    kept = ("id", "teacher", "characters", "scores", "completion")
    return [
        {key: group[0][key] for key in kept} | {"answers": len(group)}
        for teacher, group in answers[row["prompt_id"]].items()
        if teacher != row["teacher"]
    ]
