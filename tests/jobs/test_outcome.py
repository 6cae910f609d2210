"""What a run says about itself."""

from __future__ import annotations

from pathlib import Path

from jobs.outcome import changed_gates, freeze_gates


def test_gates_changed_after_the_fact_are_named_for_ever(tmp_path: Path) -> None:
    first, second = {"min_gap": 0.3, "min_seeds": 3}, {"min_gap": 0.1, "min_seeds": 3}
    freeze_gates(tmp_path, first)
    freeze_gates(tmp_path, first)
    assert changed_gates(tmp_path) == []
    for _ in range(2):  # running again does not wash the change away
        freeze_gates(tmp_path, second)
        (sentence,) = changed_gates(tmp_path)
        assert "min_gap from 0.3 to 0.1" in sentence and "min_seeds" not in sentence
