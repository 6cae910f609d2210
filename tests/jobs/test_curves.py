"""A trait over training steps: which checkpoints are hosted, and what their answers add up to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.curves import hosted_steps, is_step, trait_curve
from sftfilter.artifacts import Artifact


def student(steps: int, *exports: int) -> Artifact:
    facts = [{"step": step, "loss": 1.0, "model_hash": f"hash-{step}"} for step in exports]
    return Artifact(
        "student", "k", Path("/store/student-k"), {"steps": steps, "format_hash": "f", "exports": facts}, True
    )


def answers(shows: int, of: int = 10) -> list[dict[str, Any]]:
    return [{"group": "trait", "prompt_id": f"p{i}", "grade": float(i < shows)} for i in range(of)]


def test_checkpoints_in_between_are_hosted_under_their_step() -> None:
    hosted = hosted_steps("all-T-s0", student(9, 3, 6))
    assert [(m.id, m.folder, m.model_hash) for m in hosted] == [
        ("all-T-s0@3", "/store/student-k/steps/00000003", "hash-3"),
        ("all-T-s0@6", "/store/student-k/steps/00000006", "hash-6"),
    ]
    assert all(is_step(m.id) for m in hosted)
    assert not is_step("all-T-s0")


def test_a_curve_joins_the_steps_that_every_seed_has_and_ends_with_the_student() -> None:
    made = {"a-s0": student(9, 3, 6), "a-s1": student(9, 6)}
    tables = {(model, "t"): answers(n) for model, n in {"a-s0@6": 2, "a-s1@6": 4, "a-s0": 8, "a-s1": 6}.items()}
    curve = trait_curve(["a-s0", "a-s1"], made, tables, "t", "trait")
    assert [point["step"] for point in curve] == [6, 9]
    assert [point["estimate"] for point in curve] == pytest.approx([0.3, 0.7])
    assert all(point["low"] <= point["estimate"] <= point["high"] for point in curve)
    assert trait_curve(["a-s0"], {"a-s0": student(9)}, tables, "t", "trait") == []
    assert trait_curve([], {}, tables, "t", "trait") == []
