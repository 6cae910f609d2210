"""What a carrier search leaves: results.json, the set and every test as Parquet and CSV, and the page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.carriers_arms import ARMS, UNTRAINED, roles_of
from jobs.console import Stages
from jobs.evaluating import Evaluated
from jobs.experiment import Gathered
from jobs.grade_table import write_grades
from jobs.grades import ungraded_share
from jobs.kinds.carriers import Carriers
from jobs.outcome import changed_gates
from jobs.records import PACKAGES, base_record, write_json
from jobs.score_tables import plain_table
from jobs.sweep_outcome import measure_points, student_caveats, student_counts, student_records, write_tidy
from jobs.sweep_students import Planned
from jobs.sweep_table import Measured, Rows, arm_cells, arm_facts, rate_of
from sftfilter.carriers import Confirmed, Found, Group, confirm
from sftfilter.carriers.confirmation import SUMMARIES
from sftfilter.disk import disk_errors
from sftfilter.report.formats import interval_text, percent, rate_interval
from sftfilter.trials import Trained

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 50
"""Prompts of the set that stand in results.json; all of them are in set.parquet."""


@dataclass(frozen=True)
class Ends:
    """Rates of the unchanged students in the search, on its own prompts."""

    original: float
    alternate: float
    runs: int


@dataclass(frozen=True)
class Searched:
    """How the search ended.

    Attributes:
        found: None where there was no trait to search for.
        share: of the prompts, that the found set holds.
    """

    ends: Ends
    found: Found | None
    share: float


@dataclass(frozen=True)
class Students:
    """Everything that was trained, and the confirmation's own students where there was one."""

    planned: Sequence[Planned]
    trained: Trained
    confirmation: tuple[Planned, Evaluated] | None


def write_carriers(
    spec: Carriers,
    root: Path,
    gathered: Gathered,
    groups: Sequence[Group],
    searched: Searched,
    read_by_search: Collection[str],
    students: Students,
    stages: Stages,
    command: str,
) -> dict[str, Any]:
    """Write everything below `root/<name>`, print the tables; answers results.json.

    Args:
        read_by_search: held-out prompts that the confirmation leaves out.
    """
    from sftfilter.report.carriers import write_carriers_page

    folder = root / spec.name
    members = set_rows(spec, gathered, searched.found)
    arms: Rows = []
    point = None
    if students.confirmation is None:
        judged = unconfirmed(spec, searched)
    else:
        planned, evaluated = students.confirmation
        (whole,), (able,) = measure_points([planned], students.trained, [evaluated])
        point = without(whole, read_by_search)
        arms = arm_rows(spec, point, able)
        judged = judge_set(spec, point, able)
    verdict = dict(judged.verdict)
    verdict["reasons"] = [*verdict["reasons"], *changed_gates(folder)]
    counts = student_counts(students.planned, students.trained)
    counts.pop("points")
    results = base_record(spec, stages, command, (*PACKAGES, "deepspeed", "scikit-learn")) | {
        "verdict": verdict,
        "gates": list(judged.gates),
        "estimands": dict(judged.estimands),
        "set": set_record(groups, searched, members),
        "search": search_record(spec, searched),
        "tests": test_rows(searched),
        "arms": arms,
        "groups": [{"group": group.name, "prompts": len(group.prompts)} for group in groups],
        "published": [figure.model_dump() for figure in spec.published],
        "counts": {"prompts": sum(len(g.prompts) for g in groups), "groups": len(groups), **counts},
        **student_records(students.trained),
        "caveats": caveats(spec, searched) + student_caveats(arms, students.trained),
    }
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in (("tests", results["tests"]), ("arms", arms), ("set", members)):
            if rows:
                write_tidy(folder, name, rows)
        (folder / "set.txt").write_text("".join(f"{row['prompt_id']}\n" for row in members))
        if point is not None:
            named = [(plan.name, plan, point.tables) for plan in point.plans]
            write_grades(folder, spec.traits, named)
        page = write_carriers_page(folder / "report", results)
        write_json(folder / "results.json", results)
    _show(results, folder, page, stages)
    return results


def without(point: Measured, prompts: Collection[str]) -> Measured:
    """The same students on all held-out prompts but these."""
    tables = {pair: [row for row in rows if row["prompt_id"] not in prompts] for pair, rows in point.tables.items()}
    return replace(point, tables=tables)


def judge_set(spec: Carriers, point: Measured, able: Mapping[str, Mapping[str, Any]]) -> Confirmed:
    """The claims on the first trait, from the confirmation's own students and prompts."""
    trait, settings = next(iter(spec.traits.items()))
    cells, missing = {}, {}
    roles = roles_of(spec)
    for role, arm in roles.items():
        matrix = arm_cells(point, arm, trait, settings.primary)
        if matrix.size and not np.isnan(matrix).all():
            cells[role] = matrix
        else:
            missing[role] = arm_facts(point, arm)["problem"] or "none of its answers could be graded"
    measured = spec.capability is not None and (spec.capability.loss or spec.capability.instructions)
    broken = {role: why for role, arm in roles.items() if arm != UNTRAINED and (why := able[arm]["broken"])}
    given = point.plans, point.tables, trait, settings.primary
    ungraded = max(ungraded_share(arm, *given) for arm in roles.values())
    return confirm(
        cells, spec.gates, spec.seek, broken=broken if measured else None, missing=missing, ungraded=ungraded
    )


def unconfirmed(spec: Carriers, searched: Searched) -> Confirmed:
    """The verdict where nothing was found that could be confirmed."""
    ends, gates = searched.ends, spec.gates
    if searched.found is None:
        label = "no trait to study"
        reasons = [
            f"on the search's prompts the original's students show it in {percent(ends.original)}, the alternate's in "
            f"{percent(ends.alternate)}; needed: a gap of {gates.min_gap:g} and at most {gates.max_clean_rate:g}"
        ]
    else:
        label = "no small set"
        reasons = [
            f"the smallest set that passed the search holds {percent(searched.share)} of the prompts; allowed: "
            f"{percent(spec.largest)}"
        ]
        if not searched.found.finished:
            reasons.append("the budget ended the search early: raise `budget`; finished students are reused")
    claims = dict.fromkeys(("necessary", "sufficient"), "not measured")
    verdict = {"label": label, "summary": SUMMARIES[label], "claims": claims, "reasons": reasons}
    return Confirmed(verdict, [], {})


def set_rows(spec: Carriers, gathered: Gathered, found: Found | None) -> Rows:
    """A row for each prompt of the set: its group, and what both teachers answered."""
    if found is None:
        return []
    answers: dict[str, dict[str, str]] = {}
    for name in (spec.original, spec.alternate):
        rows = gathered.material.rollouts[name].table("rollouts").to_pylist()
        answers[name] = {row["prompt_id"]: row["completion"] for row in reversed(rows)}
    prompts = {row["prompt_id"]: row for row in gathered.material.prompts.table("prompts").to_pylist()}
    made: Rows = []
    for group in found.groups:
        for one in group.prompts:
            row = prompts[one]
            text = "\n".join(turn["content"] for turn in row["messages"])
            known = {
                "prompt_id": one,
                "group": group.name,
                "kind": row["kind"],
                "source": row["source"],
                "prompt": text,
            }
            made.append(known | {"original": answers[spec.original][one], "alternate": answers[spec.alternate][one]})
    return made


def set_record(groups: Sequence[Group], searched: Searched, members: Rows) -> dict[str, Any] | None:
    """The set in numbers and its first prompts; None where there is none."""
    found = searched.found
    if found is None:
        return None
    seen = {way: _last(found, way) for way in ("swap", "transfer")}
    return {
        "groups": [group.name for group in found.groups],
        "of_groups": len(groups),
        "prompts": len(found.prompts),
        "share": searched.share,
        "seen_in_search": seen,
        "first": members[:SHOWN],
    }


def _last(found: Found, way: str) -> float | None:
    """What the search saw of the set itself, before any confirmation."""
    names = {group.name for group in found.groups}
    return next((test.share for test in found.tests if test.way == way and {*test.groups} == names), None)


def search_record(spec: Carriers, searched: Searched) -> dict[str, Any]:
    """What the search saw of the unchanged students, what it spent and whether it was through."""
    found = searched.found
    return {
        "original": searched.ends.original,
        "alternate": searched.ends.alternate,
        "budget": spec.budget,
        "students": searched.ends.runs + (found.runs if found else 0),
        "finished": found.finished if found else True,
    }


def test_rows(searched: Searched) -> Rows:
    """A row for each test of the search, with its cost."""
    tests = searched.found.tests if searched.found else ()
    return [
        {
            "test": test.number,
            "way": test.way,
            "groups": "; ".join(test.groups),
            "prompts": test.prompts,
            "share": test.share,
            "passed": test.passed,
            "students": test.runs,
        }
        for test in tests
    ]


def arm_rows(spec: Carriers, point: Measured, able: Mapping[str, Mapping[str, Any]]) -> Rows:
    """A row for each arm of the confirmation, trait and group of held-out prompts."""
    rows: Rows = []
    roles = {arm: role for role, arm in ARMS.items()}
    for arm in point.one.point.spec.arms:
        known = arm_facts(point, arm) | {"role": roles[arm], "broken": able[arm]["broken"]}
        for trait, settings in spec.traits.items():
            for group in settings.groups:
                rate = rate_of(point, arm, trait, group)
                rows.append(known | {"trait": trait, "group": group, "primary": group == settings.primary, **rate})
    return rows


def caveats(spec: Carriers, searched: Searched) -> list[str]:
    """What has to be known before the set is believed."""
    found = searched.found
    if found is None:
        return []
    said = [
        "What the search saw of the set is too good on average, since the best-looking set was taken (the winner's curse); "
        "only the confirmation, on fresh seeds and other held-out prompts, counts.",
        "Another set may carry the trait as well: the search ends with one.",
    ]
    if not found.finished:
        said.append(
            f"The budget of {spec.budget} students ended the search before the halving was through, so a smaller set may do."
        )
    return said


def _show(results: Mapping[str, Any], folder: Path, page: Path, stages: Stages) -> None:
    if results["tests"]:
        stages.console.print(_tests(results))
    if results["set"]:
        one = results["set"]
        stages.console.print(
            f"Set: {one['prompts']} prompts ({percent(one['share'])}): {'; '.join(one['groups'])}", markup=False
        )
    if results["arms"]:
        stages.console.print(_arms(results))
    for name, value in results["estimands"].items():
        stages.console.print(f"  {name}: {interval_text(value)}  [dim]{value['meaning']}[/]")
    stages.console.print(f"[bold]Verdict: {results['verdict']['label']}[/]. {results['verdict']['summary']}")
    for sentence in [*results["verdict"]["reasons"], *results["caveats"]]:
        stages.console.print(f"- {sentence}", soft_wrap=True, markup=False)
    if results["set"]:
        stages.console.print(f"Set:     {folder / 'set.csv'}", soft_wrap=True)
    stages.console.print(f"Report:  {page}", soft_wrap=True)


def _tests(results: Mapping[str, Any]) -> Table:
    table = plain_table(f"{results['name']}: {len(results['tests'])} tests")
    for heading in ("test", "way", "groups", "prompts", "share", "passed", "students"):
        table.add_column(heading, justify="left" if heading in ("way", "groups") else "right", overflow="fold")
    for row in results["tests"]:
        share, passed = percent(row["share"]), "yes" if row["passed"] else "no"
        table.add_row(
            str(row["test"]), row["way"], row["groups"], str(row["prompts"]), share, passed, str(row["students"])
        )
    return table


def _arms(results: Mapping[str, Any]) -> Table:
    table = plain_table("Confirmation")
    for heading in ("arm", "trait", "rows", "rate"):
        table.add_column(heading, justify="left" if heading in ("arm", "trait") else "right")
    for row in results["arms"]:
        if row["primary"]:
            rate = "-" if row["estimate"] is None else f"{percent(row['estimate'])} {rate_interval(row)}"
            table.add_row(row["arm"], row["trait"], f"{row['rows_trained']:g}", rate)
    return table
