"""A student whose best checkpoints in between are told by a trait is finished once they were asked."""

from __future__ import annotations

import json
from pathlib import Path

from sftfilter.artifacts import Store
from sftfilter.step_asking import FACTS, RATES
from sftfilter.step_ranking import begin_unranked, best_exports, finish_ranked, is_set_aside, set_aside, whole_exports
from sftfilter.training_settings import Exports

WANTED = Exports(every_steps=2, keep=2, metric="fear")


def test_the_best_by_rate_come_into_the_artifact_and_those_without_one_are_named(tmp_path: Path) -> None:
    exports, store, said = tmp_path / "exports", Store(tmp_path / "store"), []
    for step, rate in ((2, 0.5), (4, None), (6, 0.1), (8, 0.5)):
        _export(exports, step, rate)
    folder = begin_unranked(exports)
    (folder / "model.safetensors").write_bytes(b"weights")
    assert not is_set_aside(exports), "before it is whole"
    set_aside(folder, {"model_hash": "m"})
    assert is_set_aside(exports) and store.find("student", "k") is None

    finish_ranked(exports, WANTED, store, "student", "k", said.append)
    made = store.find("student", "k")
    assert made is not None and (made.path / "model.safetensors").read_bytes() == b"weights"
    assert [(e["step"], e["rates"]) for e in made.meta["exports"]] == [(2, {"fear": 0.5}), (6, {"fear": 0.1})]
    assert [path.name for path in whole_exports(made.path / "steps")] == ["00000002", "00000006"]
    assert made.meta["model_hash"] == "m"
    assert said == ["its checkpoints at step 4 have no rate of fear and count as the worst"]
    assert {path.name for path in made.path.iterdir()} >= {"model.safetensors", "steps"}
    assert not (made.path / "meta.json").exists()


def test_least_loss_is_best_and_all_are_kept_unless_asked_otherwise(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        _export(tmp_path, step, None)
    there = whole_exports(tmp_path)
    assert best_exports(there, Exports(every_steps=2)) == there
    assert best_exports(there, Exports(every_steps=2, keep=1)) == there[-1:]


def _export(folder: Path, step: int, rate: float | None) -> None:
    """With a loss that falls."""
    path = folder / f"{step:08d}"
    path.mkdir(parents=True)
    (path / FACTS).write_text(json.dumps({"step": step, "loss": 1 / step, "model_hash": f"h{step}"}))
    if rate is not None:
        (path / RATES).write_text(json.dumps({"fear": rate}))
