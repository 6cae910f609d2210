"""Job `inspect`: look at the scores of stored rollouts, in the terminal and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.console import Stages
from jobs.frames import frame_of
from jobs.guards import keep_examples_apart, read_evaluation, refuse_overlaps
from jobs.inspect_tables import everything
from jobs.kinds.inspect import ROWS_PER_DECILE, Inspect
from jobs.kinds.score import RolloutJob
from jobs.kinds.study import Study
from jobs.labelled import labels_table
from jobs.records import write_json
from jobs.score import Scored, job_record, score_everything
from jobs.tutoring import base_of
from sftfilter.artifacts import Store
from sftfilter.disk import disk_errors
from sftfilter.errors import DataError
from sftfilter.guards import Guards, run_guards
from sftfilter.inspection.agreement import kappas
from sftfilter.inspection.findings import find
from sftfilter.report.inspection import write_inspection
from sftfilter.selectors import Selector, select


def run_inspect(
    spec: RolloutJob | Study, root: Path, stages: Stages, command: str, rows_per_decile: int = ROWS_PER_DECILE
) -> Mapping[str, Any]:
    """Score what has no score, then print and write the findings."""
    scored = score_everything(spec, root, stages)
    folder = root / spec.name / "inspect"
    with stages.stage("findings", "spread, agreement, rows of each decile"):
        texts = {teacher: artifact.path / "rollouts.parquet" for teacher, artifact in scored.rollouts.items()}
        findings = find(scored.table, texts, list(spec.scorers), rows_per_decile)
        findings["selections"] = _selections(getattr(spec, "selectors", {}), scored)
    with stages.stage("guards", "duplicates, overlap with evaluation prompts, token lengths"):
        findings["checks"] = _checks(spec, scored, Store(root / "artifacts"), stages)
    record = job_record(spec, scored, stages, command) | findings
    write_json(folder / "inspect.json", record)
    with disk_errors(folder):
        page = write_inspection(folder, record)
    stages.console.print(everything(record))
    if record["labels"]:
        stages.console.print(labels_table(record["labels"]))
    stages.console.print(f"Page: {page}", soft_wrap=True)
    if isinstance(spec, Inspect):
        store = Store(root / "artifacts")
        evaluation = read_evaluation(spec.evaluation, spec.base_model, spec.error_budget, store)
        refuse_overlaps(spec.guards.contamination, scored.rollouts, evaluation, store, stages)
        keep_examples_apart(spec.guards.contamination, {"scorers": spec.scorers}, evaluation, store, stages)
    return record


def _checks(spec: RolloutJob | Study, scored: Scored, store: Store, stages: Stages) -> list[dict[str, Any]]:
    """What each guard found: caption, columns, rows and counts. Only an `inspect` spec names a model and evaluations."""
    settings = spec.guards if isinstance(spec, Inspect) else Guards()
    base, evaluation = None, {}
    if isinstance(spec, Inspect) and spec.base_model:
        base = base_of(spec.base_model, None)
        evaluation = read_evaluation(spec.evaluation, spec.base_model, spec.error_budget, store)
    reports = run_guards(
        settings,
        scored.rollouts,
        None,
        evaluation,
        store,
        chat=base.chat if base else None,
        context_length=base.context_length if base else None,
    )
    return [
        {
            "guard": report.guard,
            "counts": report.counts,
            "columns": list(report.columns),
            "rows": [list(row) for row in report.rows()],
            "artifact": str(stages.note(report.artifact, report.guard).path),
        }
        for report in reports
    ]


def _selections(selectors: Mapping[str, Selector], scored: Scored) -> dict[str, Any]:
    """Teacher -> how its rows are selected. A selector that cannot be applied to a teacher's rows is left out there."""
    if not selectors:
        return {}
    frame = frame_of(selectors, scored)
    found: dict[str, Any] = {}
    for teacher in scored.rollouts:
        masks, left_out = {}, {}
        for name in selectors:
            try:
                masks[name] = select(name, selectors, frame.pool(teacher), 0).rows
            except DataError as error:
                left_out[name] = str(error)
        found[teacher] = kappas(masks) | {"left_out": left_out}
    return found
