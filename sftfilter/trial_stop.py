"""Ends trials that a rule stops while Ray Tune runs them. Whether one is stopped is said by the rule, not here."""

from __future__ import annotations

from typing import Any

from ray import tune

from sftfilter.stopping import LossAbove, NoProgress


class RuleStopper(tune.Stopper):
    """Asks the rule of every step that a trial reports (`student`, `step`, `loss`); those before were asked of before."""

    def __init__(self, rule: LossAbove | NoProgress) -> None:
        self.rule = rule
        self.curves: dict[str, dict[int, float]] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether to end the trial now."""
        if "step" not in result:
            return False
        curve = self.curves.setdefault(trial_id, {})
        curve[result["step"]] = result["loss"]
        return self.rule.stop_at(curve, result["step"]) is not None

    def stop_all(self) -> bool:
        """Never: the others go on."""
        return False
