"""Rules by which a student's training is given up before its budget is spent.

A rule looks at nothing but the student's own training loss, the one figure that there is while it trains. So the same
student is stopped at the same step whatever runs beside it, however often a run was killed, and whether it was trained
before the rule was stated: a rule that compared students would stop interventions, not bad settings, since arms differ
in their rows. Ray Tune only sees to it that the rest of the training is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sftfilter.config import Settings

Curve = Mapping[int, float]
"""Optimizer step, from 1 -> training loss in nats per supervised token. Steps may be missing."""


class _OnLoss(Settings):
    """Base of the rules: means over a window, looked at after each step from `after_steps` on."""

    after_steps: Annotated[int, Field(gt=0, description="optimizer steps that every student may take")]
    window: Annotated[int, Field(gt=0, description="steps that the loss is averaged over")] = 10

    @model_validator(mode="after")
    def _enough_steps(self) -> _OnLoss:
        if self.window > self.after_steps:
            raise ValueError(f"window: {self.window} steps are more than after_steps, {self.after_steps}")
        return self

    def bound(self, curve: Curve) -> tuple[float, str] | None:
        """The loss that must not be exceeded, and how it came about; None where the curve does not tell."""
        raise NotImplementedError

    def first_stop(self, curve: Curve) -> str | None:
        """Why and at which step the student is stopped; None if it is not. A longer curve gives the same answer."""
        steps = range(self.after_steps, max(curve, default=0) + 1)
        return next((why for step in steps if (why := self.stop_at(curve, step))), None)

    def stop_at(self, curve: Curve, step: int) -> str | None:
        """Why the student is stopped at this very step, for whoever is told of one step after the other."""
        if step < self.after_steps:
            return None
        found, loss = self.bound(curve), mean_to(curve, step, self.window)
        if found is None or loss is None or loss <= found[0]:
            return None
        return (
            f"stopped by the rule {getattr(self, 'kind', '')} at step {step}: its loss over the last {self.window} "
            f"steps is {loss:.3f}, above {found[0]:.3f}{found[1]}"
        )


class LossAbove(_OnLoss):
    """Stop a student whose loss is above a number."""

    kind: Literal["loss_above"]
    above: Annotated[float, Field(gt=0, description="nats per supervised token")]

    def bound(self, curve: Curve) -> tuple[float, str]:
        """The number."""
        del curve
        return self.above, ""


class NoProgress(_OnLoss):
    """Stop a student whose loss is no better than a share of what it was over its own first steps."""

    kind: Literal["no_progress"]
    share: Annotated[float, Field(gt=0, le=1, description="of its mean loss over the first `window` steps")] = 0.95

    def bound(self, curve: Curve) -> tuple[float, str] | None:
        """That share."""
        first = mean_to(curve, self.window, self.window)
        return None if first is None else (self.share * first, f" ({self.share:.0%} of its first {self.window} steps')")


StopRule = Annotated[LossAbove | NoProgress, Field(discriminator="kind")]


def mean_to(curve: Curve, step: int, window: int) -> float | None:
    """Mean loss of the steps up to one; None if one of them is missing."""
    losses = [curve.get(number) for number in range(step - window + 1, step + 1)]
    found = [loss for loss in losses if loss is not None]
    return sum(found) / window if len(found) == window else None
