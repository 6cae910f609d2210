"""The rate of a trait in one model, told as soon as its answers are graded."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from jobs.console import Stages
from jobs.grades import graded_rows
from sftfilter import stats
from sftfilter.artifacts import Artifact


def tell_rate(stages: Stages, model: str, trait: str, group: str, graded: Artifact) -> None:
    """Write the event `rate`: share of graded answers of one group of prompts that show the trait.

    The interval covers this model's prompts only; what an effect is worth is in the results.
    """
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for row in graded_rows(graded):
        if row["group"] == group and row["grade"] is not None:
            by_prompt[row["prompt_id"]].append(float(row["grade"]))
    if by_prompt:
        found = stats.rate(np.array([[float(np.mean(grades))] for grades in by_prompt.values()]))
        stages.event("rate", model=model, trait=trait, group=group, **found.as_dict())
