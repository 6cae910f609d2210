"""The pipeline, one stage a line: every arrow is a folder that a person can open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.arms import Material, plan_arms
from jobs.console import Stages, arms_table, show_next
from jobs.guards import keep_apart, keep_examples_apart
from jobs.kinds.experiment import Experiment
from jobs.kinds.study import Study
from jobs.outcome import Made, freeze_gates, write_outcome
from jobs.reserve import Reserve, read_reserve
from jobs.rewrites import Rewriter
from jobs.students import evaluate_all, train_students
from jobs.tutoring import Base, load_base, make_rollouts, read_source, tune_teachers
from serve.host import check_port
from sftfilter.artifacts import Artifact, Store
from sftfilter.evaluation import trait_prompts
from sftfilter.scoring import score_rollouts


def run_experiment(spec: Experiment, root: Path, stages: Stages, command: str) -> Mapping[str, Any]:
    """Run every stage that is not there yet, on the Ray cluster that is connected.

    Args:
        root: resolved results folder; artifacts go below `root/artifacts`, the outcome to `root/<name>`.

    Returns:
        What is written to `results.json`.
    """
    check_port(spec.serving)
    store = Store(root / "artifacts")
    freeze_gates(root / spec.name, spec.gates.model_dump(mode="json"))
    found = gather(spec, store, root / spec.name, stages)
    base, teachers, heldout, material = found.base, found.teachers, found.heldout, found.material
    with stages.stage("decisions", f"{len(spec.arms)} arms x {len(spec.seeds)} seeds"):
        plans = plan_arms(spec, material, Rewriter(spec, base, teachers, store, stages), store, stages)
    with stages.stage("training", f"{sum(p.plan is not None for p in plans)} students, those with equal rows once"):
        students, plans = train_students(spec, base, plans, material.sources, heldout, store, root / spec.name, stages)
    with stages.stage("evaluation", "over HTTP, every student"):
        evaluated = evaluate_all(spec, base, plans, students, teachers, heldout, store, stages)
    with stages.stage("outcome", "estimands, gates, verdict, report"):
        made = Made(base, heldout, found.overlaps, material, plans, students, evaluated)
        results = write_outcome(spec, root, made, stages, command)
    _print_outcome(results, root / spec.name, stages)
    return results


@dataclass(frozen=True)
class Gathered:
    """What decisions are made from, and what students are asked."""

    base: Base
    heldout: Mapping[str, Artifact]
    overlaps: Artifact
    teachers: Mapping[str, Artifact]
    material: Material

    def having(self, **more: Any) -> Gathered:
        """The same with other parts of the material."""
        return replace(self, material=replace(self.material, **more))


def gather(spec: Experiment, store: Store, work: Path, stages: Stages) -> Gathered:
    """Every stage before decisions."""
    found = answer(spec, store, work, stages)
    if spec.reserve is not None:
        with stages.stage("reserve", "prompts that no arm uses but to backfill what it dropped"):
            from_there = found.base, found.teachers, found.material.prompts, found.heldout
            found = found.having(reserve=read_reserve(spec, *from_there, store, stages))
    return found.having(scores=score_all(spec, found.material.rollouts, store, stages))


def answer(spec: Study, store: Store, work: Path, stages: Stages) -> Gathered:
    """Prompts, teachers and their answers; nothing is scored yet."""
    base = load_base(spec)
    with stages.stage("prompts", "read, checked, duplicates named"):
        prompts = stages.note(read_prompts(spec, base, store))
        heldout = {name: stages.note(read_prompts(spec, base, store, name), name) for name in spec.traits}
        for name, trait in spec.traits.items():
            for line in not_asked(name, trait.groups, heldout[name]):
                stages.say(line)
    with stages.stage("guards", f"prompts that contain evaluation prompts: {spec.contamination.action}"):
        prompts, overlaps = keep_apart(spec, prompts, heldout, store, stages)
        learned = {"scorers": spec.scorers, "teachers": spec.teachers}
        keep_examples_apart(spec.contamination, learned, heldout, store, stages)
    with stages.stage("teachers", "tuned from the base where the spec says so"):
        teachers = tune_teachers(spec, base, store, work, stages)
    with stages.stage(
        "rollouts", f"{', '.join(spec.teachers)} answer every prompt" if spec.teachers else "nobody is asked here"
    ):
        rollouts = make_rollouts(spec, base, teachers, prompts, store, stages)
    return Gathered(base, heldout, overlaps, teachers, Material(prompts, rollouts, {}, Reserve()))


def _print_outcome(results: Mapping[str, Any], folder: Path, stages: Stages) -> None:
    stages.console.print(arms_table(results))
    stages.console.print(f"[bold]Verdict: {results['verdict']['label']}[/]. {results['verdict']['summary']}")
    for reason in results["verdict"]["reasons"]:
        stages.console.print(f"  - {reason}")
    show_next(results["verdict"], stages)
    stages.console.print(f"Report:  {folder / 'report' / 'index.html'}\nResults: {folder / 'results.json'}")


def read_prompts(spec: Study, base: Base, store: Store, trait: str | None = None) -> Artifact:
    """The training prompts, or a trait's held-out ones."""
    if trait is None:
        return read_source(spec, base, store, spec.prompts, spec.generation.max_new_tokens)
    settings = spec.traits[trait]
    source = getattr(settings, "prompts", None)
    return read_source(spec, base, store, source, settings.max_tokens) if source else trait_prompts(settings, store)


def not_asked(trait: str, groups: Mapping[str, str], heldout: Artifact) -> list[str]:
    """A line for the held-out prompts whose kind no group of the trait names: no student is asked these."""
    kinds = Counter(heldout.table("prompts")["kind"].to_pylist())
    others = {kind: count for kind, count in kinds.items() if kind not in groups.values()}
    if not others:
        return []
    named = ", ".join(f"'{kind}' ({count})" for kind, count in sorted(others.items()))
    return [f"{trait}: {sum(others.values())} held-out prompts are not asked, since no group has their kind: {named}"]


def score_all(
    spec: Experiment, rollouts: Mapping[str, Artifact], store: Store, stages: Stages
) -> dict[tuple[str, str], Artifact]:
    """(teacher, scorer) -> scores: the original teacher's rows by all, others' where an arm needs them."""
    made: dict[tuple[str, str], Artifact] = {}
    with stages.stage("scores", ", ".join(spec.scorers) or "none"):
        for teacher, name in spec.scored:
            rows = rollouts[teacher]
            with stages.bar(rows.meta["used"], f"{name} on {teacher}") as bar:
                made[teacher, name] = score_rollouts(
                    name,
                    spec.scorers[name],
                    rows,
                    store=store,
                    pool=spec.scoring_pool,
                    error_budget=spec.error_budget,
                    on_rows=bar.advance,
                )
            stages.note(made[teacher, name], f"{name} on {teacher}")
    return made
