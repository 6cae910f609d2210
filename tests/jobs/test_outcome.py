"""What a run says about itself."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.outcome import changed_gates


def test_gates_changed_after_the_fact_are_named(tmp_path: Path) -> None:
    earlier = tmp_path / "results.json"
    assert changed_gates(earlier, {"min_gap": 0.3}) == []
    earlier.write_text(json.dumps({"spec": {"gates": {"min_gap": 0.3, "min_seeds": 3}}}))
    assert changed_gates(earlier, {"min_gap": 0.3, "min_seeds": 3}) == []
    (sentence,) = changed_gates(earlier, {"min_gap": 0.1, "min_seeds": 3})
    assert "min_gap from 0.3 to 0.1" in sentence
