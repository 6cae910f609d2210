"""Job `score`: rollouts in, a score from every scorer for every row out, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.console import Stages
from jobs.guards import keep_apart, keep_examples_apart
from jobs.kinds.score import Labels, RolloutJob
from jobs.kinds.study import Study
from jobs.labelled import check_against_labels, labels_table
from jobs.records import base_record, row_counts, write_json
from jobs.score_tables import cost_table, pairing_table, scores_table
from jobs.tutoring import load_base, make_rollouts, tune_teachers
from sftfilter.artifacts import Artifact, Store
from sftfilter.disk import disk_errors
from sftfilter.pairing import Pairing, pairing
from sftfilter.rollout_import import import_rollouts
from sftfilter.scoring import score_rollouts
from sftfilter.tidy_scores import summarise, write_tidy


@dataclass(frozen=True)
class Scored:
    """What there is once everything has been scored.

    Attributes:
        rollouts: by teacher.
        scores: by teacher and scorer.
        table: the joined table, a row for each rollout and a column for each scorer.
        pairing: how the teachers' answers match.
        problems: table of what is in the way of that, one a row.
    """

    rollouts: Mapping[str, Artifact]
    scores: Mapping[tuple[str, str], Artifact]
    table: Path
    pairing: Pairing
    problems: Path


def run_score(spec: RolloutJob | Study, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Read every teacher's rollouts, score them with every scorer, print and write down what came of it."""
    scored = score_everything(spec, root, stages)
    record = job_record(spec, scored, stages, command)
    write_json(root / spec.name / "scores.json", record)
    stages.console.print(pairing_table(record["pairing"]))
    stages.console.print(scores_table(record["scores"]))
    if record["labels"]:
        stages.console.print(labels_table(record["labels"]))
    stages.console.print(cost_table(record["cost"]))
    stages.console.print(f"Scores: {scored.table}\nCounts: {root / spec.name / 'scores.json'}", soft_wrap=True)
    return record


def score_everything(spec: RolloutJob | Study, root: Path, stages: Stages) -> Scored:
    """Rollouts, scores and the joined table; whatever is stored already is neither made nor scored again."""
    store = Store(root / "artifacts")
    if isinstance(spec, Study):
        rollouts = _made_rollouts(spec, root, store, stages)
    else:
        rollouts = _read_rollouts(spec, store, stages)
    with stages.stage("scores", ", ".join(spec.scorers)):
        scores = _score(spec, rollouts, store, stages)
    with stages.stage("table", "a row for each rollout, a column for each scorer"):
        table = root / spec.name / "scores.parquet"
        write_tidy(table, rollouts, scores)
        matched, problems = pairing(rollouts), root / spec.name / "pairing.parquet"
        with disk_errors(problems.parent):
            matched.problems.write_parquet(problems)
    return Scored(rollouts, scores, table, matched, problems)


def _read_rollouts(spec: RolloutJob, store: Store, stages: Stages) -> dict[str, Artifact]:
    with stages.stage("rollouts", f"{', '.join(spec.rollouts)}: read, bad rows quarantined"):
        return {
            teacher: stages.note(
                import_rollouts(teacher, source, None, store=store, error_budget=spec.error_budget), teacher
            )
            for teacher, source in spec.rollouts.items()
        }


def _made_rollouts(spec: Study, root: Path, store: Store, stages: Stages) -> dict[str, Artifact]:
    """As the study itself gets them: the same artifacts, so that nothing is tuned or sampled twice."""
    from jobs.experiment import read_prompts

    base = load_base(spec)
    with stages.stage("prompts", "read, checked, duplicates named"):
        prompts = stages.note(read_prompts(spec, base, store))
        heldout = {name: read_prompts(spec, base, store, name) for name in spec.traits}
        prompts, _ = keep_apart(spec, prompts, heldout, store, stages)
        learned = {"scorers": spec.scorers, "teachers": spec.teachers}
        keep_examples_apart(spec.contamination, learned, heldout, store, stages)
    with stages.stage("teachers", "tuned from the base where the spec says so"):
        teachers = tune_teachers(spec, base, store, root / spec.name, stages)
    with stages.stage("rollouts", f"{', '.join(spec.teachers)} answer every prompt"):
        return make_rollouts(spec, base, teachers, prompts, store, stages)


def _score(
    spec: RolloutJob | Study, rollouts: Mapping[str, Artifact], store: Store, stages: Stages
) -> dict[tuple[str, str], Artifact]:
    made: dict[tuple[str, str], Artifact] = {}
    labels = _labels(spec)
    labelled_by = labels.by if labels else None
    for teacher, rows in rollouts.items():
        for name, scorer in spec.scorers.items():
            with stages.bar(rows.meta["used"], f"{name} on {teacher}") as bar:
                scored = score_rollouts(
                    name,
                    scorer,
                    rows,
                    store=store,
                    pool=spec.scoring_pool,
                    # Few rows are labelled by people, and none has to be.
                    error_budget=1.0 if name == labelled_by else spec.error_budget,
                    on_rows=bar.advance,
                )
            made[teacher, name] = stages.note(scored, f"{name} on {teacher}")
    return made


def _labels(spec: RolloutJob | Study) -> Labels | None:
    return spec.labels if isinstance(spec, RolloutJob) else None


def job_record(spec: RolloutJob | Study, scored: Scored, stages: Stages, command: str) -> dict[str, Any]:
    """What a job on scores writes as JSON: counts that add up, distributions, cost, and what it takes to repeat it."""
    return base_record(spec, stages, command) | {
        "counts": {teacher: row_counts(artifact) for teacher, artifact in scored.rollouts.items()},
        "pairing": scored.pairing.as_dict() | {"table": str(scored.problems)},
        "scores": summarise(scored.table, spec.scorers),
        "labels": check_against_labels(labels, list(spec.scorers), scored.table) if (labels := _labels(spec)) else None,
        "cost": {name: _cost(name, scored) for name in spec.scorers},
        "table": str(scored.table),
    }


def _cost(scorer: str, scored: Scored) -> dict[str, Any]:
    """Rows that were scored when these scores were made, and how long that took; the others were stored already."""
    metas = [artifact.meta for (_, name), artifact in scored.scores.items() if name == scorer]
    rows = sum(meta["rows"] - meta["scored_before"] for meta in metas)
    seconds = sum(meta.get("seconds", 0.0) for meta in metas)
    return {
        "rows": rows,
        "stored_before": sum(meta["scored_before"] for meta in metas),
        "seconds": round(seconds, 3),
        "rows_per_s": rows / seconds if rows and seconds else None,
        "seconds_per_1000_rows": 1000 * seconds / rows if rows else None,
    }
