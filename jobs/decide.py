"""Job `decide`: from scores to training sets, without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.arms import keep_decisions
from jobs.clusters import with_clusters
from jobs.console import Stages
from jobs.decide_tables import decisions_table, sweep_table
from jobs.exports import Exports
from jobs.frames import frame_of
from jobs.guards import keep_examples_apart, read_evaluation, refuse_overlaps
from jobs.kinds.decide import Decide
from jobs.records import write_json
from jobs.rewrites import Rewriter
from jobs.score import Scored, job_record, score_everything
from jobs.subsets import subset_notes
from jobs.tutoring import base_of
from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DataError
from sftfilter.interventions import Paraphrase, counts_of, decide
from sftfilter.rollout_import import import_rollouts
from sftfilter.score_frame import ScoreFrame
from sftfilter.selectors import reaches
from sftfilter.training_set import write_training_set


@dataclass(frozen=True)
class _Made:
    """One decision, made: its table, and the rewritten rows where there are any."""

    decisions: Artifact
    derived: Artifact | None
    record: dict[str, Any]


def run_decide(spec: Decide, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Score what has no score, decide, export, print and write down what came of it."""
    scored = score_everything(spec, root, stages)
    store, folder = Store(root / "artifacts"), root / spec.name
    reserve = _read_reserve(spec, scored, store, stages)
    if spec.evaluation:
        with stages.stage("guards", f"prompts that contain evaluation prompts: {spec.contamination.action}"):
            evaluation = read_evaluation(spec.evaluation, spec.base_model, spec.error_budget, store)
            given = {**scored.rollouts, **{f"reserve of {teacher}": rows for teacher, rows in reserve.items()}}
            refuse_overlaps(spec.contamination, given, evaluation, store, stages)
            keep_examples_apart(spec.contamination, {"scorers": spec.scorers}, evaluation, store, stages)
    with stages.stage("decisions", ", ".join(spec.decisions)):
        frame = frame_of(spec.selectors, scored, reserve)
        sources = [(rows, "rollouts") for rows in scored.rollouts.values()]
        frame = with_clusters(frame, spec.selectors, sources, store, stages)
        made = {name: _decide(spec, name, frame, scored, reserve, store, stages) for name in spec.decisions}
        swept = list(_sweep(spec, frame))
        sets = {name: (decision.teacher, decision.intervention) for name, decision in spec.decisions.items()}
        notes = subset_notes("decision", sets, {name: [one.record] for name, one in made.items()})
        for line in notes:
            stages.say(line)
    if spec.export != "none":
        with stages.stage("training", f"sets as {spec.export}, conversations in `messages`"):
            exports = Exports(folder / "train")
            for name, one in made.items():
                file = _export(spec, name, one, scored, reserve, exports.folder)
                exports.wrote(file)
                one.record["training_set"] = str(file)
            for line in exports.finish():
                stages.say(line)
    record = job_record(spec, scored, stages, command)
    record |= {"decisions": {name: one.record for name, one in made.items()}, "sweep": swept, "notes": notes}
    write_json(folder / "decide.json", record)
    stages.console.print(decisions_table(record["decisions"]))
    if swept:
        stages.console.print(sweep_table(swept))
    stages.console.print(f"Decisions: {folder / 'decide.json'}", soft_wrap=True)
    if spec.export != "none":
        stages.console.print(f"Training sets: {folder / 'train'}", soft_wrap=True)
    return record


def _read_reserve(spec: Decide, scored: Scored, store: Store, stages: Stages) -> dict[str, Artifact]:
    """Answers to prompts that nothing else is trained on, by teacher.

    Raises:
        DataError: a reserve prompt is a training prompt as well.
    """
    import polars as pl

    made = {
        teacher: stages.note(
            import_rollouts(teacher, source, None, store=store, error_budget=spec.error_budget), f"reserve of {teacher}"
        )
        for teacher, source in spec.reserve.items()
    }
    used = pl.scan_parquet(scored.table, glob=False).select("prompt_id")
    for teacher, artifact in made.items():
        fresh = pl.scan_parquet(artifact.path / "rollouts.parquet", glob=False).select("prompt_id")
        shared = fresh.join(used, on="prompt_id", how="semi").unique().sort("prompt_id").collect()["prompt_id"]
        if len(shared):
            raise DataError(
                f"reserve of {teacher}: {len(shared)} prompts are training prompts as well, so they would not be fresh: "
                f"prompt ids {', '.join(shared.head(5).to_list())}"
            )
    return made


def _decide(
    spec: Decide,
    name: str,
    frame: ScoreFrame,
    scored: Scored,
    reserve: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> _Made:
    decision = spec.decisions[name]
    change = decision.intervention
    decided = decide(frame, spec.selectors, change, teacher=decision.teacher, original=spec.original, seed=spec.seed)
    model = base_of(change.by, spec.system_prompt) if isinstance(change, Paraphrase) else None
    rewriter = Rewriter(spec, model, {}, store, stages)
    derived = rewriter.rewrite(change, decided, scored.rollouts[decision.teacher])
    table = decided.decisions(rewriter.made(derived))
    subset = decided.selection.summary() if decided.selection else None
    inputs = [a.key for a in [*scored.rollouts.values(), *scored.scores.values(), *reserve.values()]]
    inputs += [derived.key] if derived else []
    kept = keep_decisions(name, decision, decided, subset, table, store, inputs)
    stages.note(kept, name)
    counts = counts_of(table["action"])
    record = {
        "teacher": decision.teacher,
        "intervention": change.model_dump(mode="json") if change else None,
        "subset": subset,
        "rows": counts["kept"] + counts["dropped"] + counts["swapped"] + counts["rewritten"],
        **counts,
        "characters": _characters(kept, scored, [*reserve.values()], derived),
        "decisions": str(kept.path),
    }
    return _Made(kept, derived, record)


def _characters(kept: Artifact, scored: Scored, reserve: Sequence[Artifact], derived: Artifact | None) -> int:
    """Characters of all answers that are trained on."""
    import polars as pl

    length = pl.col("completion").str.len_chars().alias("characters")
    texts = [artifact.path / "rollouts.parquet" for artifact in reserve]
    texts += [derived.path / "derived.parquet"] if derived else []
    known = [pl.scan_parquet(scored.table, glob=False).select("rollout_id", "characters")]
    known += [pl.scan_parquet(path, glob=False).select("rollout_id", length) for path in texts]
    decisions = pl.scan_parquet(kept.path / "decisions.parquet", glob=False).filter(pl.col("action") != "drop")
    trained = decisions.select(pl.coalesce("replaced_by", "rollout_id").alias("rollout_id"))
    return int(trained.join(pl.concat(known), on="rollout_id").select(pl.col("characters").sum()).collect().item())


def _export(
    spec: Decide, name: str, made: _Made, scored: Scored, reserve: Mapping[str, Artifact], folder: Path
) -> Path:
    assert spec.export != "none"
    sources = [a.path / "rollouts.parquet" for a in [*scored.rollouts.values(), *reserve.values()]]
    sources += [made.derived.path / "derived.parquet"] if made.derived else []
    target = folder / f"{name}.{spec.export}"
    write_training_set(target, made.decisions.path / "decisions.parquet", sources, spec.export)
    return target


def _sweep(spec: Decide, frame: ScoreFrame) -> Iterator[dict[str, Any]]:
    """Counts of every decision that the swept selector has a part in, at each of its values."""
    if spec.sweep is None:
        return
    for value in spec.sweep.values:
        selectors = spec.selectors_at(value)
        for name, decision in spec.decisions.items():
            if decision.intervention and reaches(decision.intervention.subset, spec.sweep.selector, spec.selectors):
                decided = decide(
                    frame,
                    selectors,
                    decision.intervention,
                    teacher=decision.teacher,
                    original=spec.original,
                    seed=spec.seed,
                )
                subset = decided.selection.summary() if decided.selection else {}
                yield {"value": value, "decision": name, "subset_rows": subset.get("rows"), **decided.counts}
