"""What a lattice leaves: results.json, its tables as Parquet and CSV, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.console import Stages, show_next
from jobs.evaluating import Evaluated
from jobs.grade_table import write_grades
from jobs.kinds.lattice import Lattice
from jobs.lattice_cells import UNTRAINED, Part, main_part
from jobs.lattice_readings import judge_lattice, read_cells, role_cells, undecided
from jobs.lattice_table import cell_rows, interpolation_rows
from jobs.outcome import changed_gates
from jobs.outcome_rows import left_over
from jobs.records import PACKAGES, base_record, write_json
from jobs.score_tables import plain_table
from jobs.sweep_outcome import measure_points, student_caveats, student_counts, student_records, write_tidy
from jobs.sweep_students import Planned
from jobs.sweep_table import Measured, Rows
from sftfilter.disk import disk_errors
from sftfilter.report.formats import percent, rate_interval
from sftfilter.trials import Trained

if TYPE_CHECKING:
    from rich.table import Table


def write_lattice(
    spec: Lattice,
    root: Path,
    parts: Sequence[Part],
    planned: Sequence[Planned],
    trained: Trained,
    evaluated: Sequence[Evaluated],
    stages: Stages,
    command: str,
) -> dict[str, Any]:
    """Write everything below `root/<name>`, print the tables; answers results.json."""
    from sftfilter.report.lattice import write_lattice_page

    folder = root / spec.name
    points, abilities = measure_points(planned, trained, evaluated)
    main = main_part(spec, parts)
    material = planned[main].found.material
    remaining = left_over(parts[main].spec, points[main].plans, material.rollouts, next(iter(spec.traits)))
    judged = judge_lattice(spec, parts, points, abilities, remaining)
    judged["verdict"]["reasons"] += changed_gates(folder)
    found = tables_of(spec, parts, points, abilities)
    counts = student_counts(planned, trained)
    results = base_record(spec, stages, command, (*PACKAGES, "deepspeed")) | {
        **judged,
        **found,
        "published": [figure.model_dump() for figure in spec.published],
        "counts": {"cells": sum(len(part.cells) for part in parts), "parts": counts.pop("points"), **counts},
        **student_records(trained),
        "caveats": undecided(spec, judged["gates"]) + student_caveats(found["cells"] + found["interpolation"], trained),
    }
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in found:
            if found[name]:
                write_tidy(folder, name, found[name])
        students = [
            (f"{part.base}, {UNTRAINED}" if plan.name == UNTRAINED else plan.name, plan, point.tables)
            for part, point in zip(parts, points, strict=True)
            for plan in point.plans
        ]
        write_grades(folder, spec.traits, students)
        page = write_lattice_page(folder / "report", results)
        write_json(folder / "results.json", results)
    show_lattice(results, folder, page, stages)
    return results


def tables_of(
    spec: Lattice,
    parts: Sequence[Part],
    points: Sequence[Measured],
    abilities: Sequence[Mapping[str, Mapping[str, Any]]],
) -> dict[str, Rows]:
    """The tables `cells` and `interpolation`; the latter is empty without one."""
    readings = {trait: read_cells(spec, parts, role_cells(spec, parts, points, trait)[0]) for trait in spec.traits}
    main = main_part(spec, parts)
    return {
        "cells": cell_rows(spec, parts, points, abilities, readings),
        "interpolation": interpolation_rows(spec, parts[main], points[main], abilities[main]),
    }


def show_lattice(results: Mapping[str, Any], folder: Path, page: Path, stages: Stages) -> None:
    """Print the tables, the verdict, what is to be known of it, and what would settle the rest."""
    stages.console.print(_cells(results))
    if results["interpolation"]:
        stages.console.print(_curves(results))
    stages.console.print(f"[bold]Verdict: {results['verdict']['label']}[/]. {results['verdict']['summary']}")
    for sentence in results["caveats"]:
        stages.console.print(f"- {sentence}", soft_wrap=True, markup=False)
    show_next(results["verdict"], stages)
    stages.console.print(f"Tables:  {folder / 'cells.csv'}\nReport:  {page}", soft_wrap=True)


def _cells(results: Mapping[str, Any]) -> Table:
    table = plain_table(f"{results['name']}: {results['counts']['cells']} cells")
    for heading in ("cell", "trait"):
        table.add_column(heading, overflow="fold")
    table.add_column("rate", justify="right")
    table.add_column("reading", overflow="fold")
    for row in results["cells"]:
        if row["primary"]:
            told = f"{row['word']}: {row['reading']}" if row["reading"] else row["problem"] or "-"
            table.add_row(row["cell"], row["trait"], _rate(row), told)
    return table


def _curves(results: Mapping[str, Any]) -> Table:
    table = plain_table("More and more of the subset, beside as many random prompts")
    for heading in ("mode", "fraction", "f of rows", "trait", "rate", "random control", "dilution line"):
        table.add_column(heading, justify="left" if heading in ("mode", "trait") else "right")
    for row in results["interpolation"]:
        if row["primary"]:
            control = {"estimate": row["control_estimate"], "low": row["control_low"], "high": row["control_high"]}
            shares = percent(row["fraction"]), percent(row["f"])
            table.add_row(row["mode"], *shares, row["trait"], _rate(row), _rate(control), percent(row["dilution"]))
    return table


def _rate(row: Mapping[str, Any]) -> str:
    return "-" if row["estimate"] is None else f"{percent(row['estimate'])} {rate_interval(row)}"
