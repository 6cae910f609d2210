"""Training prompts are kept apart from evaluation prompts, as the spec says."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.console import Stages
from jobs.kinds.study import Study
from sftfilter.artifacts import Artifact, Store
from sftfilter.guards import guard_prompts


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
