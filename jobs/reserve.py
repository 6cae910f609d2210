"""The reserve: prompts that no arm uses but to fill up what it dropped, and the answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.console import Stages
from jobs.guards import keep_apart
from jobs.kinds.experiment import Experiment
from jobs.tutoring import Base, make_rollouts
from sftfilter.artifacts import Artifact, Store
from sftfilter.errors import DataError
from sftfilter.prompts import load_prompts


@dataclass(frozen=True)
class Reserve:
    """Reserve prompts and, by teacher, the answers to them."""

    prompts: Artifact | None = None
    rollouts: Mapping[str, Artifact] = field(default_factory=dict)


def read_reserve(
    spec: Experiment,
    base: Base,
    tuned: Mapping[str, Artifact],
    prompts: Artifact,
    heldout: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> Reserve:
    """The reserve prompts, answered by every teacher that an arm backfills with.

    Raises:
        DataError: a reserve prompt is a training prompt as well, or contains an evaluation prompt.
    """
    if spec.reserve is None:
        return Reserve()
    reserve = load_prompts(
        spec.reserve,
        store=store,
        chat=base.chat,
        context_length=min(base.context_length, spec.training.max_length),
        answer_tokens=spec.generation.max_new_tokens,
        error_budget=spec.error_budget,
    )
    stages.note(reserve, "reserve prompts")
    used = set(prompts.table("prompts")["prompt_id"].to_pylist())
    shared = [p for p in reserve.table("prompts")["prompt_id"].to_pylist() if p in used]
    if shared:
        raise DataError(
            f"reserve: {len(shared)} prompts are training prompts as well, so they would not be fresh: prompt ids "
            f"{', '.join(shared[:5])}"
        )
    reserve, _ = keep_apart(spec, reserve, heldout, store, stages)
    asked = spec.backfilled_by
    return Reserve(reserve, make_rollouts(spec, base, tuned, reserve, store, stages, asked) if asked else {})
