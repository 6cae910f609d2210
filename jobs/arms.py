"""From scores to the rows each arm trains on: decisions, what they need made, training plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.clusters import with_clusters
from jobs.console import Stages
from jobs.kinds.experiment import Arm, Experiment
from jobs.planning import plan_rows
from jobs.reserve import Reserve
from jobs.rewrites import Rewriter
from jobs.subsets import subset_notes
from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import Settings
from sftfilter.interventions import Decided, counts_of, decide, reserve_pool
from sftfilter.schema import DECISIONS
from sftfilter.score_frame import ScoreFrame, score_frame
from sftfilter.selectors import lists_ids, needs_lengths
from sftfilter.training_plan import TrainingPlan

if TYPE_CHECKING:
    import polars as pl

VERSION = 3


@dataclass(frozen=True)
class Material:
    """What decisions are made from: prompts, every teacher's rollouts, and scores by (teacher, scorer)."""

    prompts: Artifact
    rollouts: Mapping[str, Artifact]
    scores: Mapping[tuple[str, str], Artifact]
    reserve: Reserve

    @property
    def sources(self) -> list[Artifact]:
        """Every artifact with rollouts that an arm may train on."""
        return [*self.rollouts.values(), *self.reserve.rollouts.values()]

    def order(self) -> list[str]:
        """All prompt ids, which every arm orders its rows by."""
        tables = [self.prompts, *([self.reserve.prompts] if self.reserve.prompts else [])]
        return [prompt for a in tables for prompt in a.table("prompts")["prompt_id"].to_pylist()]


@dataclass(frozen=True)
class ArmPlan:
    """One arm with one seed, decided.

    Attributes:
        counts: rows by what became of them; kept, dropped, swapped and rewritten add up to the teacher's rows.
        subset: S in numbers.
        decided: the artifact with the table `decisions`; None for the untrained base.
        derived: the artifact with the rows that were rewritten for it.
        plan: None when there is nothing to train.
        empty: why an arm that has a teacher is not trained.
    """

    name: str
    arm: Arm
    seed: int
    counts: Mapping[str, int]
    subset: Mapping[str, Any] | None = None
    decided: Artifact | None = None
    derived: Artifact | None = None
    plan: TrainingPlan | None = None
    empty: str | None = None

    @property
    def student(self) -> str:
        """Model id at the endpoint; the base is the same for every seed."""
        return self.name if self.arm.teacher is None else f"{self.name}-s{self.seed}"

    @property
    def hosted(self) -> bool:
        """Whether there is a model to ask: the untrained base, or a student."""
        return self.empty is None

    def decisions(self) -> pl.DataFrame:
        """The table `decisions`; no rows for the untrained base."""
        import polars as pl

        if self.decided is None:
            return pl.DataFrame(DECISIONS.empty_table())
        return pl.read_parquet(self.decided.path / "decisions.parquet")


def plan_arms(spec: Experiment, material: Material, rewriter: Rewriter, store: Store, stages: Stages) -> list[ArmPlan]:
    """Every arm with every seed, and a `decisions` artifact for each."""
    frame = with_clusters(
        experiment_frame(spec, material), spec.selectors, [(material.prompts, "prompts")], store, stages
    )
    order = material.order()
    plans: list[ArmPlan] = []
    for name, arm in spec.arms.items():
        if arm.teacher is None:
            plans.append(ArmPlan(name, arm, spec.seeds[0], counts_of(frame.rows["teacher"].head(0))))
            continue
        for seed in spec.seeds:
            plan = _plan_arm(spec, name, arm, seed, frame, material, rewriter, store, order)
            if plan.empty:
                stages.console.print(f"  [yellow]{plan.student} is not trained: {plan.empty}[/]")
            plans.append(plan)
    stages.console.print(f"  {sum(plan.plan is not None for plan in plans)} students planned")
    for line in notes_on(spec, plans):
        stages.say(line)
    return plans


def notes_on(spec: Experiment, plans: Sequence[ArmPlan]) -> list[str]:
    """A line for each arm that its subset S leaves as it was, or leaves nothing of."""
    arms = {name: (arm.teacher, arm.intervention) for name, arm in spec.arms.items()}
    counts = {name: [plan.counts for plan in own] for name, own in by_arm(plans).items()}
    return subset_notes("arm", arms, {name: counts.get(name, []) for name in arms})


def by_arm(plans: Iterable[ArmPlan]) -> dict[str, list[ArmPlan]]:
    """Arm -> its plans, one a seed."""
    found: dict[str, list[ArmPlan]] = {}
    for plan in plans:
        found.setdefault(plan.name, []).append(plan)
    return found


def experiment_frame(spec: Experiment, material: Material) -> ScoreFrame:
    """The score frame of all teachers' rows, those on the reserve prompts among them."""
    import polars as pl

    def scan(artifact: Artifact, table: str) -> pl.LazyFrame:
        return pl.scan_parquet(artifact.path / f"{table}.parquet")

    rollouts = {teacher: scan(a, "rollouts") for teacher, a in material.rollouts.items()}
    rollouts |= {reserve_pool(teacher): scan(a, "rollouts") for teacher, a in material.reserve.rollouts.items()}
    scores = {
        name: pl.concat([scan(a, "scores") for (_, scorer), a in material.scores.items() if scorer == name])
        for name in spec.scorers
    }
    prompts = [material.prompts, *([material.reserve.prompts] if material.reserve.prompts else [])]
    known = pl.concat([scan(a, "prompts") for a in prompts])
    return score_frame(
        rollouts, scores, known, lengths=needs_lengths(spec.selectors), source_ids=lists_ids(spec.selectors)
    )


def _plan_arm(
    spec: Experiment,
    name: str,
    arm: Arm,
    seed: int,
    frame: ScoreFrame,
    material: Material,
    rewriter: Rewriter,
    store: Store,
    order: Sequence[str],
) -> ArmPlan:
    assert arm.teacher is not None
    decided = decide(
        frame, spec.selectors, arm.intervention, teacher=arm.teacher, original=spec.original_teacher, seed=seed
    )
    derived = rewriter.rewrite(arm.intervention, decided, material.rollouts[arm.teacher])
    table = decided.decisions(rewriter.made(derived))
    subset = decided.selection.summary() if decided.selection else None
    inputs = [a.key for a in [*material.sources, *material.scores.values(), *([derived] if derived else [])]]
    kept = keep_decisions(f"{name}-s{seed}", arm, decided, subset, table, store, inputs)
    rows = trained_rows(table)
    plan = None
    if rows:
        sources = [*material.sources, *([derived] if derived else [])]
        plan = plan_rows(rows, order, spec.training, seed, rewriter.base and rewriter.base.chat, sources)
    empty = None if plan else f"of its {len(table)} rows none is left"
    return ArmPlan(name, arm, seed, counts_of(table["action"]), subset, kept, derived, plan, empty)


def trained_rows(decisions: pl.DataFrame) -> list[tuple[str, str]]:
    """(prompt id, rollout id) of what is trained on after the decisions."""
    import polars as pl

    left = decisions.filter(pl.col("action") != "drop")
    return left.select("prompt_id", pl.coalesce("replaced_by", "rollout_id")).rows()


def keep_decisions(
    student: str,
    arm: Settings,
    decided: Decided,
    subset: Mapping[str, Any] | None,
    table: pl.DataFrame,
    store: Store,
    inputs: Sequence[str],
) -> Artifact:
    """The artifact with the table `decisions`."""

    def make(folder: Path) -> dict[str, Any]:
        write_table(folder, "decisions", table.to_arrow().cast(DECISIONS))
        return counts_of(table["action"]) | {"unscored": subset["unscored"] if subset else 0}

    settings = {"student": student, "settings": arm.model_dump(mode="json"), "subset": subset, "rows": decided.digest}
    named = {str(i): key for i, key in enumerate(inputs)}
    return store.build("decisions", version=VERSION, settings=settings, inputs=named, make=make)
