"""Grades beside the results, one row a prompt: what it takes to compare a run's students with another run's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.curves import Tables
from sftfilter.disk import disk_errors
from sftfilter.errors import DataError

if TYPE_CHECKING:
    import polars as pl

    from jobs.arms import ArmPlan
    from sftfilter.stats import Cells

GRADES = "grades.parquet"
_COLUMNS = ("arm", "seed", "model_hash", "trait", "group", "prompt_id", "grade")


@dataclass(frozen=True)
class Graded:
    """What one arm's students were graded, on one group of a trait's prompts.

    Attributes:
        prompts, seeds: of the rows and columns of `cells`, in order; the seed of an untrained model is None.
        models: hashes of the students, by seed; None where the endpoint named none.
        cells: matrix [prompt, seed], samples averaged, NaN where nothing could be graded.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int | None, ...]
    models: tuple[str | None, ...]
    cells: Cells


def write_grades(folder: Path, traits: Iterable[str], students: Iterable[tuple[str, ArmPlan, Tables]]) -> None:
    """Write `folder/grades.parquet`: arm, seed, model_hash, trait, group, prompt_id and grade (null: could not be graded).

    Args:
        students: an arm's name, as the results call it, one of its students, and where its graded answers are.
    """
    import polars as pl

    known, columns = list(traits), {name: [] for name in _COLUMNS}
    for arm, plan, tables in students:
        seed = None if plan.arm.teacher is None else plan.seed
        for trait in known if plan.hosted else ():
            for model, *rest in _by_prompt(tables[plan.student, trait]):
                for name, value in zip(_COLUMNS, (arm, seed, model, trait, *rest), strict=True):
                    columns[name].append(value)
    types: dict[str, Any] = dict.fromkeys(_COLUMNS, pl.String) | {"seed": pl.Int64, "grade": pl.Float64}
    partial = folder / f".{GRADES}.partial"
    with disk_errors(folder):
        pl.DataFrame(columns, schema=types).write_parquet(partial)
        partial.replace(folder / GRADES)


def _by_prompt(rows: list[dict[str, Any]]) -> list[tuple[str | None, str, str, float | None]]:
    """Model hash, group, prompt id and mean grade of one student's answers to each prompt."""
    sums: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        values = sums.setdefault((row["group"], row["prompt_id"]), [])
        if row["grade"] is not None:
            values.append(float(row["grade"]))
    model = next((row.get("model_hash") for row in rows), None)
    return [(model, *at, sum(v) / len(v) if v else None) for at, v in sorted(sums.items())]


def read_grades(folder: Path) -> dict[tuple[str, str, str], Graded] | None:
    """(arm, trait, group) -> grades; None where the run kept none. An `eval` keeps every answer instead.

    Raises:
        DataError: the table is damaged.
    """
    import polars as pl

    for file, arm in ((GRADES, "arm"), ("results.parquet", "student")):
        path = folder / file
        if not path.is_file():
            continue
        try:
            table = pl.read_parquet(path, glob=False).rename({arm: "arm"})
            if "seed" not in table.columns:
                table = table.with_columns(pl.lit(None, pl.Int64).alias("seed"))
            return _graded(table.select(_COLUMNS))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path}: damaged ({error}); run the spec again, which reuses its stages") from error
    return None


def _graded(table: pl.DataFrame) -> dict[tuple[str, str, str], Graded]:
    import polars as pl

    by = ("arm", "trait", "group", "prompt_id", "seed")
    means = table.group_by(by).agg(pl.col("model_hash").first(), pl.col("grade").mean()).sort(by)
    found = {}
    for (arm, trait, group), part in means.group_by("arm", "trait", "group", maintain_order=True):
        prompts = {p: n for n, p in enumerate(part["prompt_id"].unique(maintain_order=True))}
        seeds = {s: n for n, s in enumerate(sorted(set(part["seed"]), key=lambda s: -1 if s is None else s))}
        cells = np.full((len(prompts), len(seeds)), np.nan)
        models: dict[int | None, str | None] = {}
        for prompt, seed, model, grade in part.select("prompt_id", "seed", "model_hash", "grade").iter_rows():
            cells[prompts[prompt], seeds[seed]] = np.nan if grade is None else grade
            models[seed] = model
        found[str(arm), str(trait), str(group)] = Graded(
            tuple(prompts), tuple(seeds), tuple(models[s] for s in seeds), cells
        )
    return found
