"""Job `score`: rollouts in, a score from every scorer for every row out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.console import Stages
from jobs.kinds.score import RolloutJob
from sftfilter.artifacts import Artifact, Store
from sftfilter.rollouts import import_rollouts
from sftfilter.scoring import score_rollouts


def run_score(spec: RolloutJob, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Read every teacher's rollouts and score them with every scorer."""
    store = Store(root / "artifacts")
    with stages.stage("rollouts", f"{', '.join(spec.rollouts)} read, bad rows quarantined"):
        rollouts = {
            teacher: stages.note(
                import_rollouts(teacher, source, None, store=store, error_budget=spec.error_budget), teacher
            )
            for teacher, source in spec.rollouts.items()
        }
    with stages.stage("scores", ", ".join(spec.scorers)):
        scores = score_teachers(spec, rollouts, store, stages)
    return {"name": spec.name, "command": command, "scores": {f"{t}/{s}": a.meta for (t, s), a in scores.items()}}


def score_teachers(
    spec: RolloutJob, rollouts: Mapping[str, Artifact], store: Store, stages: Stages
) -> dict[tuple[str, str], Artifact]:
    """(teacher, scorer) -> scores."""
    made: dict[tuple[str, str], Artifact] = {}
    for teacher, rows in rollouts.items():
        for name, scorer in spec.scorers.items():
            with stages.bar(rows.meta["used"], f"{name} on {teacher}") as bar:
                scored = score_rollouts(
                    name,
                    scorer,
                    rows,
                    store=store,
                    pool=spec.scoring_pool,
                    error_budget=spec.error_budget,
                    on_rows=bar.advance,
                )
            made[teacher, name] = stages.note(scored, f"{name} on {teacher}")
    return made
