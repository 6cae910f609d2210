"""From scores to the rows each arm trains on: subsets, decisions, training plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.console import Stages
from jobs.kinds.experiment import Arm, Experiment
from jobs.tutoring import partner_rows
from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import DataError
from sftfilter.interventions import Swap, decide, trained_rows
from sftfilter.schema import DECISIONS
from sftfilter.selectors import Subset, select
from sftfilter.training_plan import TrainingPlan, make_plan

if TYPE_CHECKING:
    import polars as pl

VERSION = 1


@dataclass(frozen=True)
class ArmPlan:
    """One arm with one seed, decided. `plan` is None for the untrained base."""

    name: str
    arm: Arm
    seed: int
    decisions: list[dict[str, Any]]
    subset: Subset | None
    plan: TrainingPlan | None

    @property
    def student(self) -> str:
        """Model id at the endpoint; the base is the same for every seed."""
        return self.name if self.plan is None else f"{self.name}-s{self.seed}"

    @property
    def counts(self) -> dict[str, int]:
        """Rows kept, dropped and swapped; they add up to the teacher's rows."""
        actions = Counter(d["action"] for d in self.decisions)
        counts = {"kept": actions["keep"], "dropped": actions["drop"], "swapped": actions["swap"]}
        return counts | {"trained": counts["kept"] + counts["swapped"]}


def plan_arms(
    spec: Experiment,
    prompts: Artifact,
    rollouts: Mapping[str, Artifact],
    scores: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> list[ArmPlan]:
    """Every arm with every seed, and a `decisions` artifact for each."""
    rows = scored_rows(prompts, rollouts[spec.original_teacher], scores)
    order = prompts.table("prompts")["prompt_id"].to_pylist()
    plans: list[ArmPlan] = []
    for name, arm in spec.arms.items():
        if arm.teacher is None:
            plans.append(ArmPlan(name, arm, spec.seeds[0], [], None, None))
            continue
        for seed in spec.seeds:
            plan = _plan_arm(spec, name, arm, seed, rows, rollouts, order)
            _keep_decisions(plan, store, [a.key for a in [*rollouts.values(), *scores.values()]])
            plans.append(plan)
    stages.console.print(f"  {len(plans)} students planned")
    return plans


def scored_rows(prompts: Artifact, rollouts: Artifact, scores: Mapping[str, Artifact]) -> pl.DataFrame:
    """Rollouts joined with their prompts' fields and one column for each scorer."""
    import polars as pl

    def frame(artifact: Artifact, table: str) -> pl.DataFrame:
        converted = pl.from_arrow(artifact.table(table))
        assert isinstance(converted, pl.DataFrame)
        return converted

    prompt = pl.col("messages").list.last().struct.field("content").alias("prompt")
    rows = frame(rollouts, "rollouts").select("rollout_id", "prompt_id", prompt, "completion")
    rows = rows.join(frame(prompts, "prompts").select("prompt_id", "kind", "source"), on="prompt_id", how="left")
    for name, artifact in scores.items():
        column = frame(artifact, "scores").select("rollout_id", pl.col("score").alias(name))
        rows = rows.join(column, on="rollout_id", how="left", validate="1:1")
    return rows.sort("rollout_id")


def _plan_arm(
    spec: Experiment,
    name: str,
    arm: Arm,
    seed: int,
    rows: pl.DataFrame,
    rollouts: Mapping[str, Artifact],
    order: list[str],
) -> ArmPlan:
    assert arm.teacher is not None
    intervention = arm.intervention
    subset = select(intervention.subset, spec.selectors, rows, seed) if intervention else None
    own = rollouts[arm.teacher].table("rollouts").select(["rollout_id", "prompt_id"]).to_pylist()
    partners = partner_rows(rollouts[intervention.to]) if isinstance(intervention, Swap) else {}
    decisions = decide(own, intervention, subset, partners)
    kept = trained_rows(decisions)
    if not kept:
        raise DataError(f"arm {name}: no row is left to train on")
    plan = make_plan(kept, order, batch=spec.training.batch, epochs=spec.training.epochs, seed=seed)
    return ArmPlan(name, arm, seed, decisions, subset, plan)


def _keep_decisions(plan: ArmPlan, store: Store, inputs: list[str]) -> None:
    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        write_table(folder, "decisions", pa.Table.from_pylist(plan.decisions, DECISIONS))
        return plan.counts

    subset = sorted(plan.subset.rollout_ids) if plan.subset else None
    settings = {"arm": plan.name, "seed": plan.seed, "settings": plan.arm.model_dump(mode="json"), "subset": subset}
    named = {str(i): key for i, key in enumerate(inputs)}
    store.build("decisions", version=VERSION, settings=settings, inputs=named, make=make)
