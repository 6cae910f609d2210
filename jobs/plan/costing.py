"""From what is to be made and what it costs to stages that can be scheduled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jobs.plan.items import STAGES, Item, Sizes
from jobs.plan.schedule import Piece, Stage

if TYPE_CHECKING:
    from jobs.plan.costs import Costs
    from sftfilter.training_settings import Execution

_TITLES = {"tuning": "teachers"}
_FIELDS = {
    "rollouts": {"rollout_s", "generate_flops_s"},
    "scores": {"score_s", "score_setup_s"},
    "student": {
        "train_row_s",
        "train_flops_s",
        "train_setup_s",
        "checkpoint_gib",
        "storage_gib_s",
        "student_workers",
        "student_keeps",
    },
    "answers": {"answer_s", "generate_flops_s", "model_s", "serve_setup_s", "head_answers_s"},
}
"""Costs that each kind of work depends on."""
UNITS = {"rollouts": "rollouts", "scores": "scores", "student": "row visits", "answers": "answers"}


@dataclass(frozen=True)
class Line:
    """What one kind of work of a stage comes to on one worker; None where its cost is not known."""

    stage: str
    count: int
    unit: str
    seconds: float | None
    setup: float


@dataclass
class Costed:
    """Stages in their order.

    Attributes:
        unknown: what has no cost, and so is in no sum, each with the key that would give it one.
    """

    stages: list[Stage] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def costed(sizes: Sizes, left: Sequence[Item], costs: Costs, execution: Execution | None) -> Costed:
    """Stages of what is left to be made.

    Args:
        execution: of training; what it says of checkpoints in between counts for shared storage.
    """
    found = Costed()
    _alone(found, "start", costs.start_s)
    for stage in STAGES:
        items = [item for item in left if item.stage == stage]
        if stage == "training" and sizes.decided and items:
            _alone(found, "decisions", costs.decide_s * sizes.decided)
        if items:
            _working(found, stage, items, costs, execution, sizes.at_once and stage == "training")
    _alone(found, "head", costs.head_s)
    return found


def _alone(found: Costed, name: str, seconds: float) -> None:
    if seconds:
        found.stages.append(Stage(name, serial=seconds))
        found.lines.append(Line(name, 0, "", 0.0, seconds))


def _working(
    found: Costed, stage: str, items: Sequence[Item], costs: Costs, execution: Execution | None, at_once: bool
) -> None:
    title = _TITLES.get(stage, stage)
    pieces: list[Piece] = []
    serial, floors = 0.0, {}
    for kind in dict.fromkeys(item.kind for item in items):
        of_kind = [item for item in items if item.kind == kind]
        known = [(item, each) for item in of_kind if (each := unit_cost(item, costs)) is not None]
        made = [_piece(item, each, costs) for item, each in known]
        setup = _setup(kind, [item for item, _ in known], costs)
        if lost := [item for item in of_kind if unit_cost(item, costs) is None]:
            found.unknown.append(_unknown(title, lost))
        seconds = sum(piece.seconds for piece in made) if known else None
        found.lines.append(Line(title, sum(item.count for item in of_kind), UNITS[kind], seconds, setup))
        pieces += made
        serial += setup
        if kind == "student" and costs.checkpoint_gib:
            floors["shared storage"] = _written(of_kind, made, costs, execution) / costs.storage_gib_s
        if kind == "answers" and known:
            floors["head node"] = sum(item.count for item, _ in known) / costs.head_answers_s
    found.stages.append(Stage(title, tuple(pieces), serial, at_once, floors))


def unit_cost(item: Item, costs: Costs) -> float | None:
    """Seconds on one worker for each of an item's count: as measured or stated, else by its FLOPs."""
    match item.kind:
        case "rollouts":
            known = _named(costs.rollout_s, item.of)
        case "scores":
            known = _named(costs.score_s, item.of, item.kind_of)
        case "student":
            known = _named(costs.train_row_s, role_of(item))
        case _:
            known = costs.answer_s
    rate = flops_rates(costs).get(item.kind)
    if known is not None or not rate or not item.flops:
        return known
    return item.flops / max(1, item.count) / rate / costs.devices


def by_flops(item: Item, costs: Costs) -> bool:
    """Whether an item's cost is that of its FLOPs."""
    return unit_cost(item, costs) != unit_cost(replace(item, flops=0.0), costs)


def flops_rates(costs: Costs) -> dict[str, float | None]:
    """Kind of work -> FLOP/s of a device."""
    return {"rollouts": costs.generate_flops_s, "student": costs.train_flops_s, "answers": costs.generate_flops_s}


def role_of(item: Item) -> str:
    """By which the cost of a student is looked up."""
    return "teacher" if item.stage == "tuning" else "student"


def used_names(items: Sequence[Item]) -> set[str]:
    """Names by which costs of these items are looked up."""
    return {"any", *(name for item in items for name in (item.of, item.kind_of, role_of(item)))}


def used_fields(sizes: Sizes, items: Sequence[Item]) -> set[str]:
    """Costs that a plan of these items depends on."""
    always = {
        "device",
        "devices",
        "device_hour_price",
        "start_s",
        "head_s",
        "chars_per_token",
        *({"decide_s"} if sizes.decided else ()),
    }
    return always.union(*(_FIELDS[item.kind] for item in items))


def _named(costs: Mapping[str, float], *names: str) -> float | None:
    return next((costs[name] for name in (*names, "any") if name in costs), None)


def _piece(item: Item, each: float, costs: Costs) -> Piece:
    most = max(1, math.ceil(item.count / item.share))
    if item.kind != "student":
        return Piece(item.told_as, item.count * each, most)
    return Piece(item.told_as, item.count * each, min(most, costs.student_workers), costs.student_keeps)


def _setup(kind: str, items: Sequence[Item], costs: Costs) -> float:
    """Seconds in which models are loaded and workers started: on all of them at the same time, so no number helps."""
    if not items:
        return 0.0
    if kind == "scores":
        return sum(_named(costs.score_setup_s, item.of, item.kind_of) or 0.0 for item in items)
    if kind == "student":
        return costs.train_setup_s
    return costs.serve_setup_s + costs.model_s * len(items) if kind == "answers" else 0.0


def _written(items: Sequence[Item], pieces: Sequence[Piece], costs: Costs, execution: Execution | None) -> float:
    """GiB to shared storage: students, their exports, and checkpoints in between, each taken for as large."""
    every = execution.checkpoint_every_s if execution else None
    between = sum(int(piece.seconds / every) for piece in pieces) if every else 0
    return costs.checkpoint_gib * (sum(1 + item.exports for item in items) + between)


def _unknown(stage: str, items: Sequence[Item]) -> str:
    item = items[0]
    keys = {
        "rollouts": f"rollout_s.{item.of}",
        "scores": f"score_s.{item.of}",
        "student": f"train_row_s.{role_of(item)}",
        "answers": "answer_s",
    }
    named = ", ".join(dict.fromkeys(one.of for one in items)) if item.kind in ("rollouts", "scores") else ""
    what = f"{sum(one.count for one in items):,} {UNITS[item.kind]}" + (f" of {named}" if named else "")
    return f"{stage}: {what} have no known cost and are in no sum; state one: --cost {keys[item.kind]}=SECONDS"
