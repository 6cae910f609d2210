"""A trait over training steps: checkpoints in between are hosted and asked like any student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serve.settings import HostedModel
from sftfilter import stats
from sftfilter.artifacts import Artifact

Tables = Mapping[tuple[str, str], list[dict[str, Any]]]


def step_id(student: str, step: int) -> str:
    """Model id of a checkpoint in between."""
    return f"{student}@{step}"


def is_step(model: str) -> bool:
    """Whether a model id is one of a checkpoint in between."""
    return "@" in model


def hosted_steps(name: str, student: Artifact) -> list[HostedModel]:
    """The checkpoints in between that a student's artifact holds."""
    return [
        HostedModel(
            id=step_id(name, export["step"]),
            folder=str(student.path / "steps" / f"{export['step']:08d}"),
            model_hash=export["model_hash"],
            format_hash=student.meta["format_hash"],
        )
        for export in student.meta.get("exports", ())
    ]


def trait_curve(
    students: Sequence[str], made: Mapping[str, Artifact], tables: Tables, trait: str, group: str
) -> list[dict[str, Any]]:
    """Rate of the trait, over prompts and the arm's seeds, after each step that every seed exported, and at the end.

    Returns:
        Records of step, estimate, low, high, n; empty when nothing was exported in between.
    """
    exported = [{e["step"] for e in made[name].meta.get("exports", ())} for name in students if name in made]
    shared = sorted(set.intersection(*exported)) if exported else []
    if not shared:
        return []
    ids = {step: [step_id(name, step) for name in students] for step in shared}
    ids[max(made[name].meta["steps"] for name in students)] = list(students)
    return [
        {"step": step, **group_rate([tables[model, trait] for model in models], group)} for step, models in ids.items()
    ]


def group_rate(tables: Sequence[Sequence[Mapping[str, Any]]], group: str) -> dict[str, Any]:
    """Rate over prompts and students, of the graded answers of one group; a table for each student."""
    from jobs.grades import prompt_means

    return stats.rate(np.array([prompt_means(rows, group) for rows in tables], dtype=float).T).as_dict()
