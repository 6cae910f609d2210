"""The page's tables as Parquet files beside it, whole, with the columns that the page's CSV has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sftfilter.report import formats as f
from sftfilter.report.embedded import answer_of, arm_lines, plain_text

Rows = Sequence[Mapping[str, Any]]


def write_files(folder: Path, arms: Rows, rows: Rows, heldout: Rows) -> dict[str, str]:
    """Write `arms.parquet`, `rows.parquet` and `heldout.parquet`, as far as there are any; answers what each holds."""
    import polars as pl

    head, *lines = arm_lines(arms)
    tables = {
        "arms": [dict(zip(head, line, strict=True)) for line in lines],
        "rows": [_training(row) for row in rows],
        "heldout": [line for row in heldout for line in _answers(row)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, found in tables.items():
        if found:
            columns = list(dict.fromkeys(column for row in found for column in row))
            table = pl.DataFrame({column: _column([row.get(column) for row in found]) for column in columns})
            partial = folder / f".{name}.parquet.partial"
            table.write_parquet(partial)
            partial.replace(folder / f"{name}.parquet")
            written[name] = f.count(len(found))
        else:
            (folder / f"{name}.parquet").unlink(missing_ok=True)  # of an earlier page
    return written


def _training(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {"prompt_id": row.get("prompt_id"), "kind": row.get("kind"), "source": row.get("source")}
    found["prompt"] = plain_text(row.get("prompt"))
    for field, read in (("answers", plain_text), ("grades", None), ("scores", None), ("decisions", None)):
        named = f.part(row, field).items()
        found |= {f"{field.removesuffix('s')}:{key}": read(value) if read else value for key, value in named}
    return found


def _answers(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    known = {key: plain_text(row.get(key)) for key in ("prompt_id", "group", "prompt")}
    return [known | {"student": name, **answer_of(value)} for name, value in f.part(row, "answers").items()]


def _column(values: Sequence[Any]) -> list[Any]:
    """Numbers where all are, texts otherwise; half a surrogate pair, which UTF-8 cannot hold, becomes a question mark."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) for value in known):
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value).encode("utf-8", "replace").decode() for value in values]
