"""Checkpoints in between are asked while training goes on, and the best by a trait are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.kinds.experiment import Experiment
from jobs.run import run_local
from jobs.spec import load_spec
from sftfilter.errors import SpecError
from tests.conftest import REPOSITORY

SPECS = REPOSITORY / "jobs" / "specs"
EXPORTS = {"every_steps": 2, "metric": "date_confusion", "keep": 1}
ARMS: dict[str, Any] = {
    "base": {},
    "all-T": {"teacher": "T"},
    "swap": {"teacher": "T", "intervention": {"kind": "swap", "subset": "S", "to": "C"}},
}
ROLES = {"original": "all-T", "alternate": "swap", "base": "base"}


@pytest.mark.ray
@pytest.mark.slow
def test_rates_come_while_training_goes_on_and_choose_what_is_kept(
    tiny_spec: Callable[..., Path], tmp_path: Path
) -> None:
    training = {"epochs": 2, "batch": 3, "exports": EXPORTS}
    path = tiny_spec(
        arms=ARMS,
        roles=ROLES,
        training=training,
        execution={"workers": 1},
        capability=None,
    )
    results = json.loads(json.dumps(run_local(load_spec(str(path), []), "sftfilter run spec.yaml")))
    folder = tmp_path / "runs"
    events = [json.loads(line) for line in (folder / "tiny" / "training" / "progress.jsonl").read_text().splitlines()]
    asked = {(e["asked"], e["at"]): e["rates"]["date_confusion"] for e in events if "asked" in e}
    assert set(asked) == {(student, step) for student in ("all-T-s0", "swap-s0") for step in (2, 4, 6)}
    order = [("asked" in e, e.get("asked", e.get("arm"))) for e in events if "asked" in e or "step" in e]
    last_asked = max(at for at, event in enumerate(order) if event == (True, "all-T-s0"))
    assert order.index((False, "swap-s0")) < last_asked, "the next arm waits for no answer"

    by_name = {arm["name"]: arm for arm in results["arms"]}
    for name in ("all-T", "swap"):
        rates = {step: rate for (student, step), rate in asked.items() if student == f"{name}-s0"}
        kept, last = by_name[name]["curves"]["date_confusion"]
        assert rates[kept["step"]] == min(rates.values()) == pytest.approx(kept["estimate"])
        assert last["step"] == 8
    answers = [stage for stage in results["stages"] if stage["stage"] == "answers"]
    assert sum(not stage["reused"] for stage in answers) == 3, "of the base and the two students"
    assert sum(stage["reused"] for stage in answers) == 2, "what was asked in training is not asked again"


def test_a_metric_is_the_loss_or_a_trait_of_the_experiment(tiny_spec: Callable[..., Path]) -> None:
    wrong = {"exports": EXPORTS | {"metric": "date_confusio"}}
    with pytest.raises(
        SpecError, match=r"training\.exports\.metric: no trait 'date_confusio', did you mean 'date_conf"
    ):
        load_spec(str(tiny_spec(training=wrong)), [])
    with pytest.raises(SpecError, match=r"execution\.ask_exports: there are no checkpoints in between"):
        load_spec(str(tiny_spec(execution={"ask_exports": True})), [])
    spec = load_spec(str(tiny_spec(training={"exports": EXPORTS})), [])
    assert isinstance(spec, Experiment) and spec.asks_exports
    sweep = {"kind": "sweep", "name": "s", "experiment": spec.model_dump(mode="json"), "space": {"seeds": [[0], [1]]}}
    from jobs.kinds.sweep import Sweep

    with pytest.raises(ValidationError, match="a sweep asks its students after they are trained"):
        Sweep.model_validate(sweep)


@pytest.mark.parametrize("name", ["lattice.yaml", "train.yaml", "carriers.yaml", "calibration.yaml"])
def test_kinds_that_cannot_ask_while_they_train_say_so(name: str) -> None:
    spec = str(SPECS / name)
    by_trait = "training.exports={every_steps: 2, metric: date_confusion, keep: 1}"
    with pytest.raises(
        SpecError, match=r"training\.exports\.metric: 'date_confusion' can be told in an experiment only"
    ):
        load_spec(spec, [by_trait])
    with pytest.raises(SpecError, match=r"execution\.ask_exports: an experiment alone asks"):
        load_spec(spec, ["training.exports={every_steps: 2}", "execution.ask_exports=true"])
