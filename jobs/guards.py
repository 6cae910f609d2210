"""Training prompts, and what scorers and teachers learn from, are kept apart from evaluation prompts, as the spec says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.console import Stages
from jobs.kinds.study import Study
from jobs.named_files import example_files
from jobs.tutoring import base_of
from sftfilter.artifacts import Artifact, Store
from sftfilter.guards import Contamination, guard_examples, guard_prompts, guard_rollouts
from sftfilter.prompts import PromptSource, load_prompts


def keep_apart(
    spec: Study, prompts: Artifact, heldout: Mapping[str, Artifact], store: Store, stages: Stages
) -> tuple[Artifact, Artifact]:
    """The prompts that may be trained on, and the overlaps with evaluation prompts that were found.

    Raises:
        DataError: there are some, and the spec does not say to drop or merely report them.
    """
    kept, overlaps = guard_prompts(spec.contamination, prompts, heldout, store)
    found = overlaps.meta["overlapping_texts"]
    stages.note(overlaps, f"{found} of {prompts.meta['used']} prompts overlap with evaluation prompts")
    return (kept if kept is prompts else stages.note(kept, f"{found} dropped")), overlaps


def keep_examples_apart(
    settings: Contamination | None,
    parts: Mapping[str, Any],
    evaluation: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> None:
    """Look for evaluation prompts in the files that scorers are fitted with and teachers are tuned on.

    Args:
        parts: `scorers` and `teachers`, as the spec has them.

    Raises:
        DataError: there are some, and the settings do not say to merely report them.
    """
    files = example_files(parts)
    if settings and files and evaluation:
        overlaps = guard_examples(settings, files, evaluation, store)
        found, of = overlaps.meta["overlapping_texts"], overlaps.meta["training_texts"]
        stages.note(overlaps, f"{found} of {of} examples for scorers and teachers overlap with evaluation prompts")


def read_evaluation(
    sources: Mapping[str, PromptSource], base_model: str | None, error_budget: float, store: Store
) -> dict[str, Artifact]:
    """Evaluation -> its prompts, as the base model's template takes them."""
    if base_model is None:
        return {}
    base = base_of(base_model, None)
    return {
        name: load_prompts(
            source,
            store=store,
            chat=base.chat,
            context_length=base.context_length,
            answer_tokens=0,
            error_budget=error_budget,
        )
        for name, source in sources.items()
    }


def refuse_overlaps(
    settings: Contamination | None,
    rollouts: Mapping[str, Artifact],
    evaluation: Mapping[str, Artifact],
    store: Store,
    stages: Stages,
) -> None:
    """Look for evaluation prompts among the prompts that the rollouts answer.

    Raises:
        DataError: there are some, and the settings say to refuse.
    """
    if settings and evaluation:
        overlaps = guard_rollouts(settings, rollouts, evaluation, store)
        found, of = overlaps.meta["overlapping_texts"], overlaps.meta["training_texts"]
        stages.note(overlaps, f"{found} of {of} answered prompts overlap with evaluation prompts")
