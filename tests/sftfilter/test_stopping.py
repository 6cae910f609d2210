"""Rules that give a student up: by its own curve alone, and the same whether the curve is whole or cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from pydantic import TypeAdapter, ValidationError

from sftfilter.artifacts import Store
from sftfilter.stopping import LossAbove, NoProgress, StopRule, mean_to
from sftfilter.training import TrainingRun
from sftfilter.training_plan import TrainingPlan
from sftfilter.training_settings import Execution, TrainingSettings
from sftfilter.trial_stop import RuleStopper
from sftfilter.trials import STOPPED, Rulings, Trained, Trial, train_trials

ABOVE = LossAbove(kind="loss_above", above=2.0, after_steps=6, window=3)
PROGRESS = NoProgress(kind="no_progress", share=0.9, after_steps=8, window=4)


def _curve(*losses: float) -> dict[int, float]:
    return dict(enumerate(losses, 1))


def test_a_loss_that_stays_high_is_stopped_at_the_first_step_that_shows_it() -> None:
    why = ABOVE.first_stop(_curve(*[3.0] * 20))
    assert why and "loss_above at step 6: its loss over the last 3 steps is 3.000, above 2.000" in why
    assert ABOVE.first_stop(_curve(*[3.0] * 5)) is None, "every student may take six steps"
    assert ABOVE.first_stop(_curve(3, 3, 3, 2, 2, 2, 1)) is None, "two is not above two"
    late = ABOVE.first_stop(_curve(1, 1, 1, 1, 1, 1, 1, 4, 4))
    assert late and "at step 9" in late, "a mean over the window, not a single step"


def test_a_loss_that_does_not_fall_is_stopped() -> None:
    why = PROGRESS.first_stop(_curve(*[5.0] * 30))
    assert why and "at step 8" in why and "above 4.500 (90% of its first 4 steps')" in why
    assert PROGRESS.first_stop(_curve(*np.linspace(5, 1, 12))) is None
    assert PROGRESS.first_stop(dict.fromkeys(range(3, 30), 5.0)) is None, "its first steps are not known"


@pytest.mark.parametrize("rule", [ABOVE, PROGRESS])
def test_a_longer_curve_gives_the_same_answer(rule: LossAbove | NoProgress) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        curve = _curve(*(2 + 0.5 * rng.standard_normal(40)))
        whole = rule.first_stop(curve)
        if whole:
            at = int(whole.split("at step ")[1].split(":")[0])
            assert rule.first_stop({step: curve[step] for step in range(1, at + 1)}) == whole
            assert rule.first_stop({step: curve[step] for step in range(1, at)}) is None


class _Counted(dict[int, float]):
    """A curve that counts how often it is looked at."""

    looks = 0

    def get(self, step: int, default: Any = None) -> Any:
        """One step's loss."""
        self.looks += 1
        return super().get(step, default)


@pytest.mark.parametrize("rule", [ABOVE, PROGRESS])
def test_what_ends_a_trial_looks_at_the_newest_step_only(rule: LossAbove | NoProgress) -> None:
    stopper, curve = RuleStopper(rule), _Counted()
    stopper.curves["trial"] = curve
    losses = [*np.linspace(1.9, 1.0, 1500), *[9.0] * 10]
    ended = [step for step, loss in enumerate(losses, 1) if stopper("trial", {"step": step, "loss": loss})]
    why = rule.first_stop(dict(curve))
    assert why and f"at step {ended[0]}: " in why, "the step that the whole curve is stopped at"
    assert curve.looks <= 2 * rule.window * len(losses), "not the whole curve at each of its steps"


def test_missing_steps_are_not_averaged_over() -> None:
    assert mean_to({1: 1.0, 3: 3.0}, 3, 3) is None
    assert mean_to({2: 1.0, 3: 3.0}, 3, 2) == 2.0


def test_a_window_that_is_longer_than_the_grace_is_refused() -> None:
    with pytest.raises(ValidationError, match="window: 9 steps are more than after_steps, 8"):
        TypeAdapter(StopRule).validate_python({"kind": "loss_above", "above": 1, "after_steps": 8, "window": 9})


def test_a_ruling_outlives_the_driver_and_goes_with_its_rule(tmp_path: Path) -> None:
    """The events of a trial that was cut off are enough; they are not needed a second time."""
    store, trial = Store(tmp_path / "artifacts"), tmp_path / "trials" / "all-T"
    trial.mkdir(parents=True)
    events = [{"arm": "all-T", "step": step, "loss": 3.0} for step in range(1, 10)]
    (trial / "events-before.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events[:4]))
    (trial / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events[4:]) + '{"cut')
    why = Rulings(store, ABOVE, tmp_path / "trials").of("all-T", "key", None)
    assert why and "at step 6" in why and list(store.root.glob(f"{STOPPED}-*"))
    (trial / "events.jsonl").unlink()
    again = Rulings(store, ABOVE, tmp_path / "trials")
    assert again.made("key") == again.of("all-T", "key", None) == why
    other = ABOVE.model_copy(update={"above": 3.5})
    assert Rulings(store, other, tmp_path / "trials").made("key") is None
    assert Rulings(store, None, tmp_path / "trials").of("all-T", "key", None) is None


def test_what_a_killed_run_had_trained_far_enough_is_not_trained_again(tmp_path: Path) -> None:
    """The driver died before it could write the ruling down; the next one finds it without starting anything."""
    rows = pa.table({"row_id": ["a"], "messages": ["[]"], "completion": ["b"]})
    run = TrainingRun("all-T", 0, rows, TrainingPlan(()), TrainingSettings(), {})
    trial = Trial(run, "base", "hash", None, "format")
    folder = tmp_path / "trials" / "all-T"
    folder.mkdir(parents=True)
    told = [json.dumps({"arm": "all-T", "step": step, "loss": 3.0}) for step in range(1, 8)]
    (folder / "events.jsonl").write_text("\n".join(told) + "\n")
    store = Store(tmp_path / "artifacts")

    def trained() -> Trained:
        given: Any = {"at_once": 1, "retries": 0, "on_event": print, "execution": Execution()}
        return train_trials({"all-T": trial}, store=store, storage=tmp_path / "trials", stop=ABOVE, **given)

    first = trained()
    assert not first.students and not first.failed and "at step 6" in first.stopped["all-T"]
    (folder / "events.jsonl").unlink()
    assert trained().stopped == first.stopped
    assert not ray.is_initialized()
