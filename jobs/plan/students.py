"""Students of an experiment: which are the same whatever the data, and how many rows each is trained on at most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.plan.counting import CHARS_OF_A_TOKEN
from sftfilter.config import stable_hash
from sftfilter.interventions import DropPrompt, DropRow
from sftfilter.selectors.by_name import ByField, Ids
from sftfilter.selectors.by_score import TopFraction, TopK
from sftfilter.selectors.controls import RandomControl
from sftfilter.training_plan import EPOCHS

if TYPE_CHECKING:
    from jobs.kinds.experiment import Arm, Experiment
    from jobs.plan.counting import Rows
    from sftfilter.selectors import Selector
    from sftfilter.training_settings import TrainingSettings


@dataclass(frozen=True)
class Student:
    """A student to train.

    Attributes:
        key: hash of all it follows from that can be told without the data.
        rows: that it is trained on, at most.
        visits: rows times passes over them, padding included.
        sure: whether what it is trained on is known without scores; else it may have fewer rows, or equal another.
    """

    name: str
    key: str
    rows: int
    visits: int
    steps: int
    sure: bool


_ANSWERS = ("base_model", "system_prompt", "prompts", "reserve", "teachers", "generation")
"""Fields of an experiment that teachers' rows follow from."""


def students_of(spec: Experiment, rows: Mapping[str, Rows]) -> Iterator[Student]:
    """Every arm with every seed; equal ones have equal keys.

    Args:
        rows: teacher -> its answers.
    """
    answers = spec.model_dump(mode="json", include=set(_ANSWERS))
    for name, arm in spec.arms.items():
        if arm.teacher is None:
            continue
        training = spec.training_of(name)
        left, sure = _rows_left(spec, arm, rows[arm.teacher])
        changed = _resolved_arm(spec, arm)
        for seed in spec.seeds:
            key = stable_hash([answers, changed, training.model_dump(mode="json"), seed])
            visits = visits_of(left, training, rows[arm.teacher])
            yield Student(f"{name}-s{seed}", key, left, visits, visits // training.batch, sure)


def visits_of(rows: int, training: TrainingSettings, read: Rows | None = None) -> int:
    """Rows that pass through training, by its budget; the last step is padded."""
    if training.steps is not None:
        return training.steps * training.batch
    if training.supervised_tokens is not None:
        tokens = max(1.0, (read.answer_chars if read else 0.0) / CHARS_OF_A_TOKEN)
        return math.ceil(training.supervised_tokens / tokens / training.batch) * training.batch
    return math.ceil(round(rows * (training.epochs or EPOCHS)) / training.batch) * training.batch


def _rows_left(spec: Experiment, arm: Arm, own: Rows) -> tuple[int, bool]:
    """Rows after the arm's intervention, and whether S is known; what only scores can tell drops nothing."""
    intervention = arm.intervention
    if intervention is None:
        return own.count, own.exact
    taken = subset_size(intervention.subset, spec.selectors, own)
    dropped = (taken or 0) if isinstance(intervention, DropPrompt | DropRow) else 0
    return max(0, own.count - dropped), own.exact and taken is not None


def subset_size(name: str, selectors: Mapping[str, Selector], rows: Rows) -> int | None:
    """Rows that a selector takes, where its settings and the prompts' kinds tell it."""
    selector = selectors[name]
    match selector:
        case ByField(field="kind"):
            return rows.kinds.get(selector.equals)
        case Ids() if selector.ids is not None:
            return len(selector.ids)
        case TopFraction():
            return int(selector.fraction * rows.count + 0.5)
        case TopK():
            return selector.k
        case RandomControl():
            return subset_size(selector.size_of, selectors, rows)
        case _:
            return None


def _resolved_arm(spec: Experiment, arm: Arm) -> Any:
    """An arm with its selectors written out, so that their names do not matter."""
    if arm.intervention is None:
        return [arm.teacher, None]
    data = arm.intervention.model_dump(mode="json")
    # The original's rows are those that are selected from, unless the arm's own are.
    chooses = arm.teacher if arm.intervention.by_row else spec.original_teacher
    return [arm.teacher, chooses, data | {"subset": _resolved(spec, arm.intervention.subset)}]


def _resolved(spec: Experiment, name: str) -> Any:
    selector = spec.selectors[name]
    known: dict[str, Any] = {other: _resolved(spec, other) for other in selector.refers()}
    known |= {scorer: spec.scorers[scorer].model_dump(mode="json") for scorer in selector.scorers()}

    def written_out(value: Any) -> Any:
        if isinstance(value, list):
            return [written_out(one) for one in value]
        return known.get(value, value) if isinstance(value, str) else value

    return {field: written_out(value) for field, value in selector.model_dump(mode="json").items()}
