"""Whether a student is broken: measured against the untrained base on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sftfilter.config import Settings

if TYPE_CHECKING:
    from sftfilter.stats import Cells


class Capability(Settings):
    """What is measured of every student beside the traits, and from where on it counts as broken."""

    loss: Annotated[bool, Field(description="held-out loss on neutral answers")] = True
    instructions: Annotated[bool, Field(description="40 requests with exact rules")] = True
    max_tokens: Annotated[int, Field(gt=0, description="of an answer to a request")] = 48
    max_loss_rise: Annotated[float, Field(gt=0, description="nats a token above the base")] = 1.0
    max_following_drop: Annotated[float, Field(gt=0, le=1, description="below the base's share of requests")] = 0.25
    min_coherent: Annotated[
        float, Field(ge=0, le=1, description="share of answers that neither loop nor are empty")
    ] = 0.8


def broken(student: Mapping[str, Cells], base: Mapping[str, Cells] | None, limits: Capability) -> str | None:
    """Why a student cannot be taken for safe, or None.

    A limit is passed when the whole 95 % interval lies beyond it: on the loss and on instructions, of the paired difference
    from the base on the same prompts.

    Args:
        student, base: `loss`, `following`, `coherent` as [prompt, seed]; what was not measured is left out.
    """
    from sftfilter.stats import paired_difference, rate

    reasons = []
    if base and "loss" in student and "loss" in base:
        rise = paired_difference(student["loss"], _like(student["loss"], base["loss"]))
        if rise.low is not None and rise.low > limits.max_loss_rise:
            reasons.append(f"its held-out loss is {rise.estimate:.2f} nats a token above the base's")
    if base and "following" in student and "following" in base:
        drop = paired_difference(student["following"], _like(student["following"], base["following"]))
        if drop.high is not None and drop.high < -limits.max_following_drop:
            reasons.append(f"it follows {-(drop.estimate or 0):.0%} fewer instructions than the base")
    if "coherent" in student:
        coherent = rate(student["coherent"])
        if coherent.high is not None and coherent.high < limits.min_coherent:
            reasons.append(f"only {coherent.estimate:.0%} of its answers neither loop nor are empty")
    return "; ".join(reasons) or None


def _like(student: Cells, base: Cells) -> Cells:
    """The base's mean over its own seeds, if it has several, beside every seed of the student: [prompt, seed]."""
    import numpy as np

    return np.repeat(np.nanmean(base, axis=1, keepdims=True), student.shape[1], axis=1)
