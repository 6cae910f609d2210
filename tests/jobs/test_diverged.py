"""A student that diverges costs its arm; the experiment says so and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.run import run_local
from jobs.spec import load_spec


@pytest.mark.ray
@pytest.mark.slow
def test_a_diverged_student_costs_its_arm_and_no_other(
    tiny_spec: Callable[..., Path], tiny_model: str, tmp_path: Path
) -> None:
    training = {"method": {"kind": "full"}, "learning_rate": 100.0, "warmup_share": 0.0, "epochs": 1, "batch": 8}
    arms: dict[str, Any] = {
        "base": {},
        "all-T": {"teacher": "T"},  # 12 rows: the first of its two steps makes the second one's loss absurd
        "one-step": {"teacher": "T", "intervention": {"kind": "drop_prompt", "subset": "S"}},
    }
    roles = {"original": "all-T", "alternate": "one-step", "base": "base"}
    spec = load_spec(str(tiny_spec(base_model=tiny_model, arms=arms, roles=roles, training=training)), [])
    results = json.loads(json.dumps(run_local(spec, "sftfilter run spec.yaml")))
    by_name = {arm["name"]: arm for arm in results["arms"]}
    assert by_name["one-step"]["rows"]["trained"] <= 8 < by_name["all-T"]["rows"]["kept"]
    [lost] = by_name["all-T"]["by_seed"]
    assert lost["not_trained"].startswith("arm all-T-s0: the ") and "at step 2" in lost["not_trained"]
    assert by_name["one-step"]["training"]["model_hash"] and by_name["one-step"]["traits"]
    [gap] = [line for line in results["lost"] if line["estimand"] == "gap"]
    assert "was not trained, since arm all-T-s0" in gap["why"]
    page = (tmp_path / "runs" / "tiny" / "report" / "index.html").read_text()
    assert "lower training.learning_rate" in page
