"""What a sweep leaves: results.json, the tidy table as Parquet and CSV, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.arms import ArmPlan
from jobs.console import Stages
from jobs.evaluating import Evaluated
from jobs.grade_table import write_grades
from jobs.grades import graded_rows
from jobs.kinds.sweep import Sweep
from jobs.records import PACKAGES, base_record, write_json
from jobs.score_tables import plain_table
from jobs.sweep_students import Planned
from jobs.sweep_table import (
    CONTRASTS,
    COUNTS,
    NUMBERS,
    TEXTS,
    Measured,
    Rows,
    columns_of,
    comparisons,
    measured,
    point_abilities,
    tidy,
)
from sftfilter.disk import disk_errors
from sftfilter.report.formats import percent, rate_interval, short_number
from sftfilter.trials import Trained

if TYPE_CHECKING:
    from rich.table import Table


def write_sweep(
    spec: Sweep,
    root: Path,
    planned: Sequence[Planned],
    trained: Trained,
    evaluated: Sequence[Evaluated],
    stages: Stages,
    command: str,
) -> dict[str, Any]:
    """Write everything below `root/<name>`, print the table; answers results.json."""
    from sftfilter.report.sweep import write_sweep_page

    folder = root / spec.name
    points, abilities = measure_points(planned, trained, evaluated)
    rows = tidy(points, abilities)
    results = base_record(spec, stages, command, (*PACKAGES, "deepspeed")) | {
        "fields": columns_of(points),
        "points": [
            {"point": point.one.point.label, "settings": dict(point.one.point.settings), "abilities": able}
            for point, able in zip(points, abilities, strict=True)
        ],
        "table": rows,
        "counts": student_counts(planned, trained),
        **student_records(trained),
        "caveats": caveats(rows, trained),
    }
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_tidy(folder, "sweep", rows)
        write_grades(folder, spec.experiment.traits, students_of(points))
        page = write_sweep_page(folder / "report", results)
        write_json(folder / "results.json", results)
    _show(results, folder, page, stages)
    return results


def measure_points(
    planned: Sequence[Planned], trained: Trained, evaluated: Sequence[Evaluated]
) -> tuple[list[Measured], list[dict[str, dict[str, Any]]]]:
    """The grades of every point's students, each table of results read once; and what its arms can do beside."""
    read: dict[str, Rows] = {}
    points = []
    for one, found in zip(planned, evaluated, strict=True):
        graded: dict[tuple[str, str], Rows] = {}
        for pair, artifact in found.graded.items():
            if artifact.key not in read:
                read[artifact.key] = graded_rows(artifact)
            graded[pair] = read[artifact.key]
        points.append(measured(one, {**trained.failed, **trained.stopped}, graded))
    return points, [point_abilities(point, found) for point, found in zip(points, evaluated, strict=True)]


def students_of(points: Sequence[Measured]) -> list[tuple[str, ArmPlan, Mapping[tuple[str, str], Rows]]]:
    """`POINT: ARM`, plan and graded answers of every student."""
    return [(f"{p.one.point.label}: {plan.name}", plan, p.tables) for p in points for plan in p.plans]


def student_counts(planned: Sequence[Planned], trained: Trained) -> dict[str, int]:
    """`trained`, `reused`, `failed` and `stopped` add up to `students`."""
    reused = sum(artifact.reused for artifact in trained.students.values())
    return {
        "points": len(planned),
        "arms": sum(plan.plan is not None for one in planned for plan in one.plans),
        "students": len(trained.students) + len(trained.failed) + len(trained.stopped),
        "trained": len(trained.students) - reused,
        "reused": reused,
        "failed": len(trained.failed),
        "stopped": len(trained.stopped),
    }


def student_records(trained: Trained) -> dict[str, Any]:
    """How each student was trained, and why others were not."""
    keys = ("model_hash", "steps", "first_loss", "last_loss", "seconds")
    known = {name: {key: artifact.meta.get(key) for key in keys} for name, artifact in sorted(trained.students.items())}
    return {"students": known, "failed": dict(trained.failed), "stopped": dict(trained.stopped)}


def caveats(rows: Rows, trained: Trained) -> list[str]:
    """What has to be known before any point is believed."""
    found = [
        "A point that is picked because it looks best is picked on the same held-out prompts that its rate comes from, so "
        "that rate is too good on average (the winner's curse). Confirm it with fresh seeds and fresh prompts, in a spec of "
        "kind experiment, before relying on it.",
    ]
    if compared := len(comparisons(rows)):
        found.append(
            f"q is the p-value adjusted over the {compared} distinct comparisons of changed arms of the original teacher with "
            "the original (Benjamini and Hochberg). The untrained base, the alternate, arms of other teachers and the original "
            "teacher on S alone differ for certain; counted in, they would lower every q, so they have a p and no q. A "
            "comparison of a student with itself is none."
        )
    return found + student_caveats(rows, trained)


def student_caveats(rows: Rows, trained: Trained) -> list[str]:
    """What has to be known of the students."""
    found: list[str] = []
    if max((row["n_seeds"] for row in rows), default=0) < 2:
        found.append(
            "Every arm has one training seed, so intervals and p-values cover the choice of prompts only: students that "
            "differ by their seed alone may differ as much."
        )
    if broken := sorted({row["arm"] for row in rows if row["broken"]}):
        found.append(f"Students of {', '.join(broken)} are broken; a low rate there is not safety.")
    if trained.failed:
        found.append(f"{len(trained.failed)} students could not be trained; their rows say why and have no rates.")
    if trained.stopped:
        found.append(
            f"{len(trained.stopped)} students were stopped by the rule that the spec states, so they have no rates; a point "
            "that lacks them is neither better nor worse for it. Run without `stop` to train them to their end."
        )
    return found


def write_tidy(folder: Path, name: str, rows: Rows) -> None:
    """Write a table as Parquet and CSV."""
    import polars as pl

    types: dict[str, Any] = dict.fromkeys(TEXTS, pl.String)
    types |= dict.fromkeys((*NUMBERS, *CONTRASTS), pl.Float64) | dict.fromkeys(COUNTS, pl.Int64)
    types = {column: kind for column, kind in types.items() if rows and column in rows[0]}
    table = pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None, strict=False)
    for file, write in ((f"{name}.parquet", table.write_parquet), (f"{name}.csv", table.write_csv)):
        partial = folder / f".{file}.partial"
        write(partial)
        partial.replace(folder / file)


def _show(results: Mapping[str, Any], folder: Path, page: Path, stages: Stages) -> None:
    stages.console.print(_table(results))
    for sentence in results["caveats"]:
        stages.console.print(f"- {sentence}", soft_wrap=True)
    stages.console.print(f"Table:   {folder / 'sweep.csv'}\nReport:  {page}", soft_wrap=True)


def _table(results: Mapping[str, Any]) -> Table:
    """A line for each point, arm and trait, rates of the trait's own group."""
    table = plain_table(f"{results['name']}: {len(results['points'])} points")
    for heading in ("point", "arm", "trait"):
        table.add_column(heading, overflow="fold")
    for heading in ("rows", "rate", "minus original", "q"):
        table.add_column(heading, justify="right")
    for row in results["table"]:
        if row["primary"]:
            rate = f"{percent(row['estimate'])} {rate_interval(row)}" if row["estimate"] is not None else "-"
            minus = "-" if row["difference"] is None else f"{100 * row['difference']:+.0f} points"
            q = "-" if row["q"] is None else short_number(row["q"])
            table.add_row(row["point"], row["arm"], row["trait"], f"{row['rows_trained']:g}", rate, minus, q)
    return table
